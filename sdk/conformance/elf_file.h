#pragma once
// What a shared library says about itself, read without trusting or running it.
#include <filesystem>
#include <string>
#include <vector>

namespace tenon::conformance {

struct ElfSymbol {
  std::string name;
  bool is_defined = false;
  bool is_visible = false;  // exported: in the dynamic table, global or weak, of default visibility
};

struct ElfFile {
  std::vector<ElfSymbol> dynamic;                 // .dynsym
  std::vector<std::string> defined;               // names defined in .symtab; empty when it was stripped
  std::vector<std::string> needed, search_paths;  // DT_NEEDED; DT_RPATH and DT_RUNPATH, split at ':'
  bool stack_is_executable = false;
};

// Error(Data) for what is no well-formed 64-bit ELF file: every offset is checked against the size.
ElfFile read_elf(const std::filesystem::path& file);

}  // namespace tenon::conformance
