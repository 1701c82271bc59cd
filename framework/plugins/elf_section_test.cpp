#include "plugins/elf_section.h"

#include <elf.h>

#include <cstring>
#include <vector>

#include <doctest/doctest.h>

using namespace tenon::host;

namespace {

// The least ELF file with one section of a name: header, "payload", names, section table.
struct TinyElf {
  Elf64_Ehdr header{};
  Elf64_Shdr sections[3]{};
  std::string payload = "payload", names{"\0.mine\0.names\0", 14};

  TinyElf() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = ET_DYN;
    header.e_machine = EM_X86_64;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = 3;
    header.e_shstrndx = 2;
    header.e_shoff = sizeof header + payload.size() + names.size();
    sections[1] = {.sh_name = 1,
                   .sh_type = SHT_PROGBITS,
                   .sh_flags = 0,
                   .sh_addr = 0,
                   .sh_offset = sizeof header,
                   .sh_size = payload.size(),
                   .sh_link = 0,
                   .sh_info = 0,
                   .sh_addralign = 1,
                   .sh_entsize = 0};
    sections[2] = {.sh_name = 7,
                   .sh_type = SHT_STRTAB,
                   .sh_flags = 0,
                   .sh_addr = 0,
                   .sh_offset = sizeof header + payload.size(),
                   .sh_size = names.size(),
                   .sh_link = 0,
                   .sh_info = 0,
                   .sh_addralign = 1,
                   .sh_entsize = 0};
  }
  std::string bytes() const {
    return std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload + names +
           std::string(reinterpret_cast<const char*>(sections), sizeof sections);
  }
};

// In a block of exactly the file's size, so that a sanitizer sees one byte too far.
ElfSection find_in(const std::string& bytes, std::string_view name = ".mine") {
  static std::vector<std::byte> copy;
  copy.assign(reinterpret_cast<const std::byte*>(bytes.data()), reinterpret_cast<const std::byte*>(bytes.data()) + bytes.size());
  copy.shrink_to_fit();
  return find_elf_section(copy, name);
}

template <class Change>
std::string problem_after(Change change) {
  TinyElf elf;
  change(elf);
  return find_in(elf.bytes()).problem;
}

}  // namespace

TEST_CASE("a section is found by its whole name") {
  const ElfSection found = find_in(TinyElf().bytes());
  CHECK(found.problem.empty());
  CHECK(std::string(reinterpret_cast<const char*>(found.bytes.data()), found.bytes.size()) == "payload");
  CHECK(find_in(TinyElf().bytes(), ".min").problem == "no tenon plugin: it has no section .min");
  CHECK(find_in(TinyElf().bytes(), ".names").problem.empty());
}

TEST_CASE("files that lie about themselves are refused with a reason") {
  CHECK(problem_after([](TinyElf& e) { e.header.e_ident[0] = 'x'; }) == "not an ELF file");
  CHECK(problem_after([](TinyElf& e) { e.header.e_ident[EI_CLASS] = ELFCLASS32; }) == "built for another kind of machine");
  CHECK(problem_after([](TinyElf& e) { e.header.e_machine = EM_SPARC; }) == "built for another kind of machine");
  CHECK(problem_after([](TinyElf& e) { e.header.e_type = ET_EXEC; }) == "not a shared library");
  CHECK(problem_after([](TinyElf& e) { e.header.e_shnum = 0; }) == "it has no section table");
  CHECK(problem_after([](TinyElf& e) { e.header.e_shentsize = 1; }).find("wrong size") != std::string::npos);
  CHECK(problem_after([](TinyElf& e) { e.header.e_shnum = 0xffff; }).find("outside the file") != std::string::npos);
  CHECK(problem_after([](TinyElf& e) { e.header.e_shoff = ~uint64_t{0} - 8; }).find("outside the file") != std::string::npos);
  CHECK(problem_after([](TinyElf& e) { e.header.e_shstrndx = 3; }).find("outside the file") != std::string::npos);
  CHECK(problem_after([](TinyElf& e) { e.sections[2].sh_size = ~uint64_t{0}; }).find("section names lie outside") != std::string::npos);
  CHECK(problem_after([](TinyElf& e) { e.sections[1].sh_size = 1 << 20; }) == "damaged or cut off: section .mine lies outside the file");
  CHECK(problem_after([](TinyElf& e) { e.sections[1].sh_offset = ~uint64_t{0} - 3; }) ==
        "damaged or cut off: section .mine lies outside the file");
  CHECK(problem_after([](TinyElf& e) { e.sections[1].sh_type = SHT_NOBITS; }) == "damaged or cut off: section .mine lies outside the file");
  CHECK(problem_after([](TinyElf& e) { e.sections[1].sh_name = 0xffffffff; }) == "no tenon plugin: it has no section .mine");
}

TEST_CASE("every cut of the file is refused") {
  const std::string whole = TinyElf().bytes();
  for (size_t size = 0; size < whole.size(); ++size) REQUIRE_FALSE(find_in(whole.substr(0, size)).problem.empty());
}
