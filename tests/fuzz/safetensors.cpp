// The safetensors header: any bytes give a header whose tensors lie inside the file, or Error(Data).
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "checkpoint/safetensors.h"
#include "tenon/error.h"

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

void parse(std::span<const std::byte> head, uint64_t file_bytes) {
  tenon::host::SafetensorsHeader header;
  try {
    header = tenon::host::parse_safetensors_header(head, file_bytes, "input");
  } catch (const tenon::Error& error) {
    check(error.code() == tenon::ErrorCode::Data);
    check(std::string(error.what()).find("input") != std::string::npos);
    return;
  }
  // Exactly covered: the sizes of all tensors and the header make up the file.
  uint64_t covered = 8;
  for (int i = 7; i >= 0; --i) covered += static_cast<uint64_t>(head[static_cast<size_t>(i)]) << (8 * i);
  for (const auto& [name, entry] : header.tensors) {
    check(entry.offset <= file_bytes && entry.bytes <= file_bytes - entry.offset);
    check(entry.bytes == static_cast<uint64_t>(entry.spec.bytes()));
    check(name == entry.spec.name);
    covered += entry.bytes;
  }
  check(covered == file_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Exactly as long as the input, so that AddressSanitizer sees a read behind it.
  const auto copy = std::make_unique<std::byte[]>(size);
  std::copy_n(reinterpret_cast<const std::byte*>(data), size, copy.get());
  const std::span<const std::byte> bytes(copy.get(), size);
  parse(bytes, size);
  // The header of a large file: its data is not in the span. The length field says how much data the header may claim.
  if (size >= 8) {
    uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | data[i];
    if (length <= size - 8) {
      for (const uint64_t claimed : {uint64_t{8}, uint64_t{4096}, uint64_t{1} << 40, uint64_t{INT64_MAX} - 8 - length})
        parse(bytes, 8 + length + claimed);
    }
  }
  return 0;
}
