#include "plugins/manifest_reader.h"

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "plugins/elf_section.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

constexpr const char* kKinds[] = {"quantizer", "architecture", "patch", "adapter", "objective", "text"};

bool is_name(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.'; });
}

bool is_terminated(const char* field, size_t size) { return std::memchr(field, 0, size) != nullptr; }

// All places where the magic stands in the section.
std::vector<size_t> scan_for_magic(std::span<const std::byte> section) {
  std::vector<size_t> found;
  const std::string_view text(reinterpret_cast<const char*>(section.data()), section.size());
  const std::string_view magic(kManifestMagic, sizeof kManifestMagic);
  for (size_t at = text.find(magic); at != std::string_view::npos && found.size() < 2; at = text.find(magic, at + 1)) found.push_back(at);
  return found;
}

}  // namespace

std::string field_text(const char* field, size_t size) {
  std::string text(field, ::strnlen(field, size));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
  return text;
}

ManifestReading read_manifest(std::span<const std::byte> file) {
  ManifestReading reading;
  auto refuse = [&](std::string why) {
    reading.problems.push_back(std::move(why));
    return reading;
  };
  const ElfSection section = find_elf_section(file, ".tenonplugin");
  if (!section.problem.empty()) return refuse(section.problem);
  const auto places = scan_for_magic(section.bytes);
  if (places.empty()) return refuse("section .tenonplugin holds no manifest: the magic bytes are missing");
  if (places.size() > 1) return refuse("it holds two manifests: a library declares TENON_PLUGIN once");
  const auto bytes = section.bytes.subspan(places.front());
  // Size and schema come first and stay where they are in every schema.
  constexpr size_t kHead = offsetof(Manifest, tier);
  if (bytes.size() < kHead) return refuse("its manifest is cut off");
  Manifest manifest{};
  std::memcpy(static_cast<void*>(&manifest), bytes.data(), kHead);
  if (manifest.schema != kManifestSchema)
    return refuse(concat("its manifest has schema ", manifest.schema, ", this host reads schema ", kManifestSchema,
                         ": rebuild it against this host's SDK"));
  if (manifest.size != sizeof(Manifest))
    return refuse(concat("its manifest says ", manifest.size, " bytes, schema 1 has ", sizeof(Manifest)));
  if (bytes.size() < sizeof(Manifest)) return refuse("its manifest is cut off");
  std::memcpy(static_cast<void*>(&manifest), bytes.data(), sizeof(Manifest));
  bool is_whole = is_terminated(manifest.id, sizeof manifest.id) && is_terminated(manifest.version, sizeof manifest.version) &&
                  is_terminated(manifest.license, sizeof manifest.license) && is_terminated(manifest.compiler, sizeof manifest.compiler);
  for (const auto& row : manifest.provides) is_whole = is_whole && is_terminated(row, sizeof row);
  if (!is_whole) return refuse("its manifest holds a text without an end");
  if (!is_name(manifest.id))
    reading.problems.push_back("its id '" + field_text(manifest.id, sizeof manifest.id) +
                               "' is no id: letters, digits, '.', '_' and '-' make one, as in org.example.mine");
  reading.manifest = manifest;
  return reading;
}

std::vector<Provides> read_provides(const Manifest& manifest, std::vector<std::string>& problems) {
  std::vector<Provides> all;
  for (const auto& row : manifest.provides) {
    if (row[0] == '\0') continue;
    const std::string text = field_text(row, sizeof row);
    const auto parts = split(text, ';');
    const size_t colon = parts[0].find(':');
    Provides provides;
    provides.kind = parts[0].substr(0, colon);
    if (colon != std::string::npos) provides.name = parts[0].substr(colon + 1);
    if (std::find(std::begin(kKinds), std::end(kKinds), provides.kind) == std::end(kKinds) || !is_name(provides.name)) {
      problems.push_back("it provides '" + text + "', which is not kind:name with a kind of " +
                         join({std::begin(kKinds), std::end(kKinds)}, ", "));
      continue;
    }
    for (size_t i = 1; i < parts.size(); ++i) {
      const size_t equals = parts[i].find('=');
      if (equals == std::string::npos)
        problems.push_back("it provides '" + text + "': '" + parts[i] + "' is not key=value");
      else
        provides.attributes.emplace_back(parts[i].substr(0, equals), parts[i].substr(equals + 1));
    }
    all.push_back(std::move(provides));
  }
  if (all.empty() && problems.empty()) problems.push_back("it provides nothing");
  return all;
}

}  // namespace tenon::host
