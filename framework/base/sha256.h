#pragma once
// SHA-256 (FIPS 180-4), for the hashes that runs record.
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace tenon::host {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  std::string hex();  // of everything so far; ends the hash

 private:
  void compress(const uint8_t* block);
  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  size_t pending_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

std::string sha256(std::string_view bytes);                  // 64 hexadecimal digits
std::string sha256_file(const std::filesystem::path& file);  // Error(Data) when it cannot be read

}  // namespace tenon::host
