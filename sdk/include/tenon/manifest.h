#pragma once
// The manifest: plain data that says what a plugin library is, readable without running it. Schema 1. No pointers; sizes never change
// within a schema. No LibTorch header here: the host's start-up path reads manifests without LibTorch.
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "tenon/version.h"

namespace tenon {

inline constexpr char kManifestMagic[16] = {'T', 'E', 'N', 'O', 'N', '-', 'P', 'L', 'U', 'G', 'I', 'N', '\x7f', '\x01', '\xfe', '\0'};
inline constexpr uint32_t kManifestSchema = 1;
inline constexpr int kManifestProvides = 32;

enum class Tier : uint32_t { Native = 1, Stable = 2 };

// What decides whether C++ objects of two binaries fit each other.
struct CxxAbi {
  uint32_t gxx_abi = 0;        // __GXX_ABI_VERSION
  uint32_t cxx11_strings = 0;  // _GLIBCXX_USE_CXX11_ABI
  uint32_t compiler = 0;       // 1 g++, 2 clang++
  uint32_t sanitizers = 0;     // bit 0 address, bit 1 thread
  int64_t language = 0;        // __cplusplus
};

struct Manifest {
  char magic[16];
  uint32_t size, schema;
  uint32_t tier, sdk_major, sdk_minor, cuda_version;
  uint64_t torch_abi;  // native: TORCH_ABI_VERSION of the build; stable: the release targeted
  uint64_t sdk_hash;   // native: of the SDK headers
  CxxAbi cxx;
  char id[64], version[32], license[32], compiler[64];
  char provides[kManifestProvides][96];  // "kind:name" or "kind:name;key=value;key=value"; unused rows are empty
};

struct ManifestFields {
  std::string_view id, version, license = "";
  std::array<std::string_view, kManifestProvides> provides = {};
};

#ifndef __SANITIZE_ADDRESS__
#define TENON_SANITIZE_ADDRESS_ 0u
#else
#define TENON_SANITIZE_ADDRESS_ 1u
#endif

constexpr CxxAbi this_cxx_abi() {
  CxxAbi abi{};
  abi.gxx_abi = __GXX_ABI_VERSION;
#ifdef _GLIBCXX_USE_CXX11_ABI
  abi.cxx11_strings = _GLIBCXX_USE_CXX11_ABI;
#endif
#ifdef __clang__
  abi.compiler = 2;
#else
  abi.compiler = 1;
#endif
  abi.sanitizers = TENON_SANITIZE_ADDRESS_;
  abi.language = __cplusplus;
  return abi;
}

// Plugins of the stable tier may be compiled as C++17.
#if defined(__cpp_consteval)
#define TENON_CONSTEVAL consteval
#else
#define TENON_CONSTEVAL constexpr
#endif

namespace detail {
template <size_t N>
constexpr void copy_text(char (&target)[N], std::string_view text, const char* /*what*/) {
  if (text.size() >= N) throw "a text of the manifest is too long for its field";  // at compile time
  for (size_t i = 0; i < N; ++i) target[i] = i < text.size() ? text[i] : '\0';
}
}  // namespace detail

TENON_CONSTEVAL Manifest make_manifest(const ManifestFields& fields, Tier tier, uint64_t torch_abi, uint64_t sdk_hash,
                                       uint32_t cuda_version = 0) {
  Manifest m{};
  for (int i = 0; i < 16; ++i) m.magic[i] = kManifestMagic[i];
  m.size = sizeof(Manifest);
  m.schema = kManifestSchema;
  m.tier = static_cast<uint32_t>(tier);
  m.sdk_major = TENON_SDK_MAJOR;
  m.sdk_minor = TENON_SDK_MINOR;
  m.cuda_version = cuda_version;
  m.torch_abi = torch_abi;
  m.sdk_hash = sdk_hash;
  m.cxx = this_cxx_abi();
  detail::copy_text(m.id, fields.id, "id");
  detail::copy_text(m.version, fields.version, "version");
  detail::copy_text(m.license, fields.license, "license");
  detail::copy_text(m.compiler, __VERSION__, "compiler");
  for (int i = 0; i < kManifestProvides; ++i) detail::copy_text(m.provides[i], fields.provides[i], "provides");
  return m;
}

}  // namespace tenon
