// Checks that read the file and run nothing of it.
#include <algorithm>
#include <string_view>

#include "check.h"
#include "elf_file.h"

namespace tenon::conformance {

namespace {

std::string lines(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : "\n") + item;
  return text;
}

void none(const std::vector<std::string>& problems) {
  if (!problems.empty()) failed(lines(problems));
}

// The plugin's manifest with all but one part as this host's own is: what is refused then is that part.
Manifest fitting(const Manifest& manifest) {
  Manifest m = manifest;
  m.torch_abi = TORCH_ABI_VERSION;
  m.sdk_major = TENON_SDK_MAJOR;
  m.sdk_minor = TENON_SDK_MINOR;
  m.sdk_hash = TENON_SDK_HASH;
  m.cxx = this_cxx_abi();
  return m;
}

const Manifest& manifest_of(Context& c) {
  if (!c.subject().manifest) failed("there is no manifest");
  return *c.subject().manifest;
}

void check_manifest(Context& c) {
  if (c.subject().manifest_problems.empty() && !c.subject().manifest) failed("there is no manifest");
  none(c.subject().manifest_problems);
}

void check_provides(Context& c) { none(c.subject().provides_problems); }

void check_tier(Context& c) { none(c.subject().mismatches(fitting(manifest_of(c)))); }

void check_release(Context& c) {
  Manifest m = fitting(manifest_of(c));
  m.torch_abi = manifest_of(c).torch_abi;
  none(c.subject().mismatches(m));
}

void check_sdk(Context& c) {
  Manifest m = fitting(manifest_of(c));
  m.sdk_major = manifest_of(c).sdk_major;
  m.sdk_minor = manifest_of(c).sdk_minor;
  m.sdk_hash = manifest_of(c).sdk_hash;
  none(c.subject().mismatches(m));
}

void check_compiler(Context& c) {
  Manifest m = fitting(manifest_of(c));
  m.cxx = manifest_of(c).cxx;
  none(c.subject().mismatches(m));
}

void check_place(Context& c) {
  if (!c.subject().place_problem.empty()) failed(c.subject().place_problem);
}

void check_names(Context& c) { none(c.subject().reserved); }

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> starts) {
  return std::any_of(starts.begin(), starts.end(), [&](std::string_view start) { return text.starts_with(start); });
}

std::string some(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 5; ++i) text += (i == 0 ? "" : ", ") + names[i];
  return names.size() > 5 ? concat(text, " and ", names.size() - 5, " more") : text;
}

// Not a file of its own: what the linker made is libtenon.so's.
void skip_linked_in(Context& c) {
  if (!c.subject().file.is_absolute()) skipped("it is linked into libtenon.so");
}

void check_symbols(Context& c) {
  skip_linked_in(c);
  std::vector<std::string> extra;
  for (const auto& symbol : read_elf(c.subject().file).dynamic)
    if (symbol.is_visible && !symbol.name.empty() &&
        !starts_with_any(symbol.name, {"tenon_plugin_", "__bss_start", "_edata", "_end", "_init", "_fini"}))
      extra.push_back(symbol.name);
  if (!extra.empty())
    failed("it exports ", some(extra), ": only tenon_plugin_* may be seen; build it with tenon_add_plugin(), or link with its exports.map");
}

// A mangled name of LibTorch's or the host's C++.
bool is_foreign_cxx(std::string_view name) {
  if (!name.starts_with("_Z")) return false;
  name.remove_prefix(2);
  for (const std::string_view prefix : {"N", "NK", "TVN", "TIN", "TSN", "GVN"})
    if (name.starts_with(prefix) && starts_with_any(name.substr(prefix.size()), {"3c10", "2at", "5torch", "6caffe2", "5tenon"}))
      return true;
  return false;
}

void check_imports(Context& c) {
  skip_linked_in(c);
  if (manifest_of(c).tier != static_cast<uint32_t>(Tier::Stable)) skipped("a native plugin uses LibTorch's C++");
  std::vector<std::string> foreign;
  for (const auto& symbol : read_elf(c.subject().file).dynamic)
    if (!symbol.is_defined && is_foreign_cxx(symbol.name)) foreign.push_back(symbol.name);
  if (!foreign.empty())
    failed("it needs ", some(foreign), ": a stable plugin uses LibTorch's C functions alone, through tenon/stable and torch/csrc/stable");
}

void check_bundled(Context& c) {
  skip_linked_in(c);
  const ElfFile elf = read_elf(c.subject().file);
  for (const auto& name : elf.needed)
    if (name.find('/') != std::string::npos) failed("it needs the library '", name, "' by its path: link by name, without a path");
  // The table of c10::TensorImpl's virtual functions is where LibTorch's own objects are.
  for (const auto& name : elf.defined)
    if (name == "_ZTVN3c1010TensorImplE") failed("LibTorch is linked into it: link its shared libraries, which the host brings");
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(c.subject().file.parent_path(), error))
    if (starts_with_any(entry.path().filename().string(), {"libtorch.", "libtorch_cpu.", "libtorch_cuda.", "libc10.", "libc10_cuda."}))
      failed("'", entry.path().filename().string(), "' lies beside it: the host brings LibTorch, a second copy is ignored or breaks both");
}

void check_rpath(Context& c) {
  skip_linked_in(c);
  for (const std::string& path : read_elf(c.subject().file).search_paths)
    if (!starts_with_any(path, {"$ORIGIN", "${ORIGIN}", "/usr/", "/lib/", "/lib64/", "/opt/"}))
      failed("it looks for libraries in '", path,
             "', a folder of the machine it was built on: set SKIP_BUILD_RPATH ON (tenon_add_plugin() does), or use $ORIGIN");
}

void check_stack(Context& c) {
  skip_linked_in(c);
  if (read_elf(c.subject().file).stack_is_executable)
    failed("it asks for an executable stack: link with -Wl,-z,noexecstack, and give assembler files a .note.GNU-stack section");
}

}  // namespace

std::vector<Check> file_checks() {
  return {
      {"file.manifest", 1, "", "Without a manifest the host cannot say what a file is, so it never runs it.", check_manifest},
      {"file.provides", 1, "file.manifest", "A row that does not read as kind:name is a plugin that no recipe can name.", check_provides},
      {"file.tier", 1, "file.manifest", "A tier that this host does not know has another binary interface.", check_tier},
      {"file.release", 1, "file.tier", "C++ built for another LibTorch release reads its objects wrongly.", check_release},
      {"file.sdk", 1, "file.tier", "Interfaces of other SDK headers have their functions in other places.", check_sdk},
      {"file.compiler", 1, "file.tier", "Another compiler or language level may lay out the same class otherwise.", check_compiler},
      {"file.place", 1, "file.manifest", "A plugin that others may overwrite is code of others run with the user's rights.", check_place},
      {"file.names", 1, "file.manifest", "Two plugins of one name make a recipe mean different things on different machines.", check_names},
      {"file.symbols", 1, "file.manifest", "An exported function may stand in for one of the same name elsewhere in the process.",
       check_symbols},
      {"file.imports", 1, "file.manifest", "A stable plugin that calls LibTorch's C++ breaks with the next release.", check_imports},
      {"file.bundled", 1, "file.manifest", "A second LibTorch in one process is ignored, or crashes it.", check_bundled},
      {"file.rpath", 1, "file.manifest", "A search path into a build tree works on the author's machine alone.", check_rpath},
      {"file.stack", 1, "file.manifest", "An executable stack turns every buffer overflow of the whole process into code.", check_stack},
  };
}

}  // namespace tenon::conformance
