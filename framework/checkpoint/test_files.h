#pragma once
// For tests: safetensors files made byte by byte.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "support/errors.h"
#include "support/temp_dir.h"
#include "tenon/error.h"

namespace tenon::host::test {

using testing::TempDir;

inline void put(const std::filesystem::path& file, const std::string& bytes) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary);
  out << bytes;
  out.flush();
  if (!out) fail(ErrorCode::Internal, "cannot write ", file.string());
}

inline std::string get(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Length, header, data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data = {}) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

inline std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

// What a call throws; "" when it throws nothing.
template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return concat(static_cast<int>(error.code()), " ", error.what());
  }
  return {};
}

using tenon::testing::contains;

}  // namespace tenon::host::test
