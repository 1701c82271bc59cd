#include "plugins/manifest_reader.h"

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "plugins/elf_section.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

bool is_name(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.'; });
}

bool is_version(std::string text) {
  std::replace(text.begin(), text.end(), '+', '.');  // "0.1.0+cu130"
  return is_name(text);
}

bool is_terminated(const char* field, size_t size) { return std::memchr(field, 0, size) != nullptr; }

// All places where the magic stands in the section.
std::vector<size_t> scan_for_magic(std::span<const std::byte> section, size_t limit) {
  std::vector<size_t> found;
  const std::string_view text(reinterpret_cast<const char*>(section.data()), section.size());
  const std::string_view magic(kManifestMagic, sizeof kManifestMagic);
  for (size_t at = text.find(magic); at != std::string_view::npos && found.size() < limit; at = text.find(magic, at + 1))
    found.push_back(at);
  return found;
}

}  // namespace

namespace {

// The fields that people read and that other files refer to.
void check_words(const Manifest& manifest, std::vector<std::string>& problems) {
  const std::string id = field_text(manifest.id, sizeof manifest.id), version = field_text(manifest.version, sizeof manifest.version),
                    license = field_text(manifest.license, sizeof manifest.license);
  if (!is_name(id))
    problems.push_back("its id '" + id + "' is no id: letters, digits, '.', '_' and '-' make one, as in .id = \"org.example.mine\"");
  if (!is_version(version))
    problems.push_back("its version '" + version + "' is no version: run.json records it, give one as in .version = \"0.1.0\"");
  if (license != manifest.license)
    problems.push_back("its license '" + license + "' holds bytes that cannot be shown: write its SPDX name, as in .license = \"MIT\"");
  if (manifest.compiler[0] == '\0')
    problems.push_back("it does not say which compiler made it: build it with TENON_PLUGIN, which fills that in");
}

}  // namespace

std::string field_text(const char* field, size_t size) {
  std::string text(field, ::strnlen(field, size));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
  return text;
}

namespace {

// `bytes` begins with the magic.
ManifestReading read_at(std::span<const std::byte> bytes) {
  ManifestReading reading;
  auto refuse = [&](std::string why) {
    reading.problems.push_back(std::move(why));
    return reading;
  };
  // Size and schema come first and stay where they are in every schema.
  constexpr size_t kHead = offsetof(Manifest, tier);
  if (bytes.size() < kHead) return refuse("its manifest is cut off: rebuild the plugin");
  Manifest manifest{};
  std::memcpy(static_cast<void*>(&manifest), bytes.data(), kHead);
  if (manifest.schema != kManifestSchema)
    return refuse(concat("its manifest has schema ", manifest.schema, ", this host reads schema ", kManifestSchema,
                         ": rebuild it against this host's SDK"));
  if (manifest.size != sizeof(Manifest))
    return refuse(concat("its manifest says ", manifest.size, " bytes, schema ", kManifestSchema, " has ", sizeof(Manifest),
                         ": rebuild it against this host's SDK"));
  if (bytes.size() < sizeof(Manifest)) return refuse("its manifest is cut off: rebuild the plugin");
  std::memcpy(static_cast<void*>(&manifest), bytes.data(), sizeof(Manifest));
  auto check_end = [&](const char* field, size_t size, const std::string& name) {
    if (!is_terminated(field, size))
      reading.problems.push_back(concat("its manifest's ", name, " has no end within its ", size,
                                        " bytes: the file is damaged or was not made with TENON_PLUGIN, build it again"));
  };
  check_end(manifest.id, sizeof manifest.id, "id");
  check_end(manifest.version, sizeof manifest.version, "version");
  check_end(manifest.license, sizeof manifest.license, "license");
  check_end(manifest.compiler, sizeof manifest.compiler, "compiler");
  for (int i = 0; i < kManifestProvides; ++i) check_end(manifest.provides[i], sizeof manifest.provides[i], concat("provides[", i, "]"));
  if (!reading.problems.empty()) return reading;
  check_words(manifest, reading.problems);
  reading.manifest = manifest;
  return reading;
}

}  // namespace

ManifestReading read_manifest(std::span<const std::byte> file) {
  auto refuse = [](std::string why) { return ManifestReading{std::nullopt, {std::move(why)}}; };
  const ElfSection section = find_elf_section(file, ".tenonplugin");
  if (!section.problem.empty()) return refuse(section.problem);
  const auto places = scan_for_magic(section.bytes, 2);
  if (places.empty())
    return refuse("section .tenonplugin holds no manifest: the magic bytes are missing; build it again with TENON_PLUGIN of this SDK");
  if (places.size() > 1) return refuse("it holds two manifests: a library declares TENON_PLUGIN once");
  return read_at(section.bytes.subspan(places.front()));
}

std::vector<ManifestReading> read_builtin_manifests(std::span<const std::byte> file) {
  std::vector<ManifestReading> all;
  const ElfSection section = find_elf_section(file, ".tenonplugin");
  if (!section.problem.empty()) return all;
  for (const size_t place : scan_for_magic(section.bytes, section.bytes.size())) all.push_back(read_at(section.bytes.subspan(place)));
  return all;
}

const std::vector<std::string>& manifest_kinds() {
  static const auto* const kinds = new std::vector<std::string>{"quantizer", "architecture", "patch", "adapter", "objective", "text"};
  return *kinds;
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
    const auto& kinds = manifest_kinds();
    if (std::find(kinds.begin(), kinds.end(), provides.kind) == kinds.end() || !is_name(provides.name)) {
      problems.push_back("it provides '" + text + "', which is not kind:name with a kind of " + join(kinds, ", ") +
                         ", as in quantizer:mine");
      continue;
    }
    for (size_t i = 1; i < parts.size(); ++i) {
      const size_t equals = parts[i].find('=');
      if (equals == std::string::npos)
        problems.push_back("it provides '" + text + "': '" + parts[i] + "' is not key=value, as in architecture:mine;modality=text");
      else
        provides.attributes.emplace_back(parts[i].substr(0, equals), parts[i].substr(equals + 1));
    }
    if (std::any_of(all.begin(), all.end(), [&](const Provides& p) { return p.kind == provides.kind && p.name == provides.name; }))
      problems.push_back("it provides '" + parts[0] + "' twice: keep one row");
    all.push_back(std::move(provides));
  }
  if (all.empty() && problems.empty())
    problems.push_back("it provides nothing: name what it registers, as in .provides = {\"quantizer:mine\"}");
  return all;
}

}  // namespace tenon::host
