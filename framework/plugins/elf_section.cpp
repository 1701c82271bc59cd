#include "plugins/elf_section.h"

#include <elf.h>

#include <cstring>
#include <optional>

namespace tenon::host {

namespace {

#if defined(__x86_64__)
constexpr uint16_t kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr uint16_t kMachine = EM_AARCH64;
#else
#error "which ELF machine is this?"
#endif

template <class T>
std::optional<T> read_at(std::span<const std::byte> file, uint64_t offset) {
  if (file.size() < sizeof(T) || offset > file.size() - sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

std::optional<std::span<const std::byte>> part(std::span<const std::byte> file, uint64_t offset, uint64_t size) {
  if (offset > file.size() || size > file.size() - offset) return std::nullopt;
  return file.subspan(offset, size);
}

bool is_named(std::span<const std::byte> names, uint32_t offset, std::string_view name) {
  return names.size() > name.size() && offset < names.size() - name.size() &&
         std::memcmp(names.data() + offset, name.data(), name.size()) == 0 && names[offset + name.size()] == std::byte{0};
}

}  // namespace

ElfSection find_elf_section(std::span<const std::byte> file, std::string_view name) {
  const auto header = read_at<Elf64_Ehdr>(file, 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return {{}, "not an ELF file"};
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_machine != kMachine)
    return {{}, "built for another kind of machine"};
  if (header->e_type != ET_DYN) return {{}, "not a shared library"};
  if (header->e_shoff == 0 || header->e_shnum == 0) return {{}, "it has no section table"};
  if (header->e_shentsize != sizeof(Elf64_Shdr)) return {{}, "damaged: its section table has entries of a wrong size"};
  const auto table = part(file, header->e_shoff, uint64_t{header->e_shnum} * sizeof(Elf64_Shdr));
  if (!table || header->e_shstrndx >= header->e_shnum) return {{}, "damaged or cut off: its section table lies outside the file"};
  const auto names_header = read_at<Elf64_Shdr>(*table, uint64_t{header->e_shstrndx} * sizeof(Elf64_Shdr));
  const auto names = part(file, names_header->sh_offset, names_header->sh_size);
  if (!names) return {{}, "damaged or cut off: its section names lie outside the file"};
  for (uint64_t i = 0; i < header->e_shnum; ++i) {
    const auto section = read_at<Elf64_Shdr>(*table, i * sizeof(Elf64_Shdr));
    if (!is_named(*names, section->sh_name, name)) continue;
    const auto bytes = section->sh_type == SHT_NOBITS ? std::nullopt : part(file, section->sh_offset, section->sh_size);
    if (!bytes) return {{}, "damaged or cut off: section " + std::string(name) + " lies outside the file"};
    return {*bytes, ""};
  }
  return {{}, "no tenon plugin: it has no section " + std::string(name)};
}

}  // namespace tenon::host
