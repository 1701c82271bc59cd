#include "elf_file.h"

#include <elf.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "tenon/error.h"

namespace tenon::conformance {

namespace {

class Bytes {
 public:
  explicit Bytes(const std::filesystem::path& file) {
    std::ifstream in(file, std::ios::binary);
    if (!in) fail(ErrorCode::Data, "cannot read '", file.string(), "'");
    data_.assign(std::istreambuf_iterator<char>(in), {});
  }
  template <class T>
  T at(uint64_t offset) const {
    need(offset, sizeof(T));
    T value;
    std::memcpy(&value, data_.data() + offset, sizeof(T));
    return value;
  }
  std::string_view part(uint64_t offset, uint64_t size) const {
    need(offset, size);
    return {data_.data() + offset, size};
  }

 private:
  void need(uint64_t offset, uint64_t size) const {
    if (offset > data_.size() || size > data_.size() - offset) fail(ErrorCode::Data, "it is cut off or damaged");
  }
  std::string data_;
};

std::string text_at(std::string_view table, uint64_t offset) {
  if (offset >= table.size()) fail(ErrorCode::Data, "a name lies outside its table");
  table.remove_prefix(offset);
  return std::string(table.substr(0, table.find('\0')));
}

std::vector<std::string> split_paths(const std::string& text) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t colon; (colon = text.find(':', begin)) != std::string::npos; begin = colon + 1)
    parts.push_back(text.substr(begin, colon - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

void read_dynamic(const Bytes& bytes, const Elf64_Shdr& section, std::string_view names, ElfFile& out) {
  for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= section.sh_size; at += sizeof(Elf64_Dyn)) {
    const auto entry = bytes.at<Elf64_Dyn>(section.sh_offset + at);
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_NEEDED) out.needed.push_back(text_at(names, entry.d_un.d_val));
    if (entry.d_tag == DT_RPATH || entry.d_tag == DT_RUNPATH)
      for (auto& path : split_paths(text_at(names, entry.d_un.d_val))) out.search_paths.push_back(std::move(path));
  }
}

void read_symbols(const Bytes& bytes, const Elf64_Shdr& section, std::string_view names, ElfFile& out) {
  for (uint64_t at = sizeof(Elf64_Sym); at + sizeof(Elf64_Sym) <= section.sh_size; at += sizeof(Elf64_Sym)) {
    const auto symbol = bytes.at<Elf64_Sym>(section.sh_offset + at);
    const bool is_defined = symbol.st_shndx != SHN_UNDEF;
    if (section.sh_type == SHT_SYMTAB) {
      if (is_defined) out.defined.push_back(text_at(names, symbol.st_name));
      continue;
    }
    const auto binding = ELF64_ST_BIND(symbol.st_info), visibility = ELF64_ST_VISIBILITY(symbol.st_other);
    const bool is_visible = is_defined && binding != STB_LOCAL && (visibility == STV_DEFAULT || visibility == STV_PROTECTED);
    out.dynamic.push_back({text_at(names, symbol.st_name), is_defined, is_visible});
  }
}

}  // namespace

ElfFile read_elf(const std::filesystem::path& file) {
  const Bytes bytes(file);
  const auto header = bytes.at<Elf64_Ehdr>(0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
    fail(ErrorCode::Data, "it is no 64-bit ELF file");
  ElfFile out;
  bool says_stack = false;
  for (uint16_t i = 0; i < header.e_phnum; ++i) {
    const auto program = bytes.at<Elf64_Phdr>(header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr));
    if (program.p_type != PT_GNU_STACK) continue;
    says_stack = true;
    out.stack_is_executable = program.p_flags & PF_X;
  }
  // Without the header the system takes an executable stack.
  if (!says_stack) out.stack_is_executable = true;
  for (uint16_t i = 0; i < header.e_shnum; ++i) {
    const auto section = bytes.at<Elf64_Shdr>(header.e_shoff + uint64_t{i} * sizeof(Elf64_Shdr));
    if (section.sh_type != SHT_DYNAMIC && section.sh_type != SHT_DYNSYM && section.sh_type != SHT_SYMTAB) continue;
    if (section.sh_link >= header.e_shnum) fail(ErrorCode::Data, "a section links to one that is not there");
    const auto strings = bytes.at<Elf64_Shdr>(header.e_shoff + uint64_t{section.sh_link} * sizeof(Elf64_Shdr));
    const std::string_view names = bytes.part(strings.sh_offset, strings.sh_size);
    bytes.part(section.sh_offset, section.sh_size);
    if (section.sh_type == SHT_DYNAMIC)
      read_dynamic(bytes, section, names, out);
    else
      read_symbols(bytes, section, names, out);
  }
  return out;
}

}  // namespace tenon::conformance
