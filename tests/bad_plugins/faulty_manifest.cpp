// The manifest of one faulty plugin, compiled once for each fault: TENON_FAULT is its name. The rest is in faulty_quantizer.cpp.
#include <torch/headeronly/version.h>

#include "tenon/export.h"
#include "tenon/manifest.h"
#include "tenon/sdk_hash.h"

extern const char kFault[];
const char kFault[] = TENON_FAULT;

namespace {

constexpr std::string_view fault = TENON_FAULT;

consteval tenon::Manifest manifest() {
  tenon::ManifestFields fields{
      .id = "org.example." TENON_FAULT, .version = "0.1.0", .license = "Apache-2.0", .provides = {"quantizer:faulty"}};
  if (fault == "no_such_kind") fields.provides[1] = "quantiser:faulty";
  if (fault == "bundled_name") fields.provides[0] = "quantizer:nf4";
  tenon::Manifest m = tenon::make_manifest(fields, tenon::Tier::Native, TORCH_ABI_VERSION, TENON_SDK_HASH);
  if (fault == "wrong_magic") m.magic[0] = 'X';
  if (fault == "wrong_tier") m.tier = 9;
  if (fault == "wrong_release") m.torch_abi += uint64_t{1} << 48;
  if (fault == "wrong_headers") m.sdk_hash ^= 1;
  if (fault == "wrong_compiler") m.cxx.compiler = 3 - m.cxx.compiler;
  return m;
}

}  // namespace

extern "C" {
extern TENON_API const tenon::Manifest tenon_plugin_manifest;
__attribute__((section(".tenonplugin"), used, retain)) constinit const tenon::Manifest tenon_plugin_manifest = manifest();
// Seen by the whole process where the library is linked without the version script.
TENON_API int helper_of_mine();
int helper_of_mine() { return 1; }
}
