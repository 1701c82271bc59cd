#pragma once
// Where a section lies in an ELF file, without trusting the file. Boost.DLL's reader is made for well-formed files (docs/decisions): this one
// checks every offset against the size before it reads.
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace tenon::host {

struct ElfSection {
  std::span<const std::byte> bytes;
  std::string problem;  // why there is none, in a user's words; "" when there is
};

// Of a 64-bit little-endian shared object for this machine.
ElfSection find_elf_section(std::span<const std::byte> file, std::string_view name);

}  // namespace tenon::host
