#pragma once
// The safetensors format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}, "__metadata__": {..}}, data.
// Reading; safetensors_writer.h writes.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "tenon/quantizer.h"
#include "tenon/slot.h"

namespace tenon::host {

struct SafetensorsEntry {
  TensorSpec spec;
  uint64_t offset = 0, bytes = 0;  // from the start of the file
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
};

// As in the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// Checks everything: header length against `file_bytes` (and 100 MB), JSON depth, duplicate keys, dtypes, shapes against offsets, overflow,
// overlaps and gaps. `head` holds at least the first 8 + header length bytes. No LibTorch kernel is used: fuzzed as it is.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> head, uint64_t file_bytes, const std::string& origin);

// One mapped file. Thread-safe after construction.
class SafetensorsFile final : public TensorSource {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  const SafetensorsHeader& header() const { return header_; }
  const std::filesystem::path& path() const { return path_; }
  std::vector<std::string> names() const override;
  bool has(const std::string& name) const override;
  TensorSpec spec(const std::string& name) const override;
  at::Tensor read(const std::string& name) const override;

  // Rows [first, last) of dimension 0 (of a scalar: [0, 1)) over the map, not to be written to; an aligned copy where the file's offset
  // is no multiple of the element size.
  at::Tensor view_rows(const std::string& name, int64_t first, int64_t last) const;
  // Lets the pages of those rows go from memory / asks for them to be read ahead.
  void release_rows(const std::string& name, int64_t first, int64_t last) const;
  void will_need_rows(const std::string& name, int64_t first, int64_t last) const;

 private:
  struct Range {
    const SafetensorsEntry* entry;
    uint64_t offset, bytes;
  };
  Range range(const std::string& name, int64_t first, int64_t last) const;

  std::filesystem::path path_;
  std::unique_ptr<MappedFile> map_;
  SafetensorsHeader header_;
};

// Writes tensors (CPU or CUDA, made contiguous as needed) atomically. Metadata {"format": "pt"} unless given.
void write_safetensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace tenon::host
