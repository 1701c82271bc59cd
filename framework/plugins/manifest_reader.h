#pragma once
// A plugin's manifest out of its file, without running anything of it.
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "plugins/discovery.h"

namespace tenon::host {

struct ManifestReading {
  std::optional<Manifest> manifest;
  std::vector<std::string> problems;  // of the file, or of the manifest's own form
};

// Never reads outside `file`, whatever it holds.
ManifestReading read_manifest(std::span<const std::byte> file);

// All manifests in the section .tenonplugin of a library that has plugins linked in; none when it has no such section.
std::vector<ManifestReading> read_builtin_manifests(std::span<const std::byte> file);

// "kind:name;key=value;key=value"; rows that do not read so are left out and named in `problems`.
std::vector<Provides> read_provides(const Manifest& manifest, std::vector<std::string>& problems);

// What a row's kind may be.
const std::vector<std::string>& manifest_kinds();

// A fixed-size text field up to its first NUL, with anything unprintable as '?'.
std::string field_text(const char* field, size_t size);

}  // namespace tenon::host
