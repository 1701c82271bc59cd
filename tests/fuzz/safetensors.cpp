// Any bytes as a safetensors file: an Error, or a header whose tensors all lie inside the file.
#include "checkpoint/safetensors.h"

#include <cstdlib>

#include "tenon/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto header = tenon::host::parse_safetensors_header(std::as_bytes(std::span(data, size)), size, "fuzz");
    for (const auto& [name, entry] : header.tensors)
      if (entry.offset > size || entry.bytes > size - entry.offset) std::abort();
  } catch (const tenon::Error&) {}
  return 0;
}
