#pragma once
// Writes safetensors files whose tensors arrive piece by piece: all names and shapes first, then their rows, in bounded memory.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tenon/slot.h"

namespace tenon::host {

// One file, which appears under its name only with commit(). Tensors lie in the given order, but wider elements come first where dtypes
// are mixed, so that every tensor is aligned: readers such as the Python package need that.
class SafetensorsWriter {
 public:
  // Error(Data) when the disk has too little room or a dtype has no name in the format.
  SafetensorsWriter(std::filesystem::path file, const std::vector<TensorSpec>& specs,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  // The next rows of a tensor (or all of it), in its dtype; any device, any strides. Tensors may take turns.
  void append(const std::string& name, const at::Tensor& rows);
  // Error(Internal) naming a tensor that is not complete; else the file is on disk under its name.
  void commit();

 private:
  struct Place {
    TensorSpec spec;
    uint64_t offset = 0, written = 0, bytes = 0;
  };
  void write_at(const void* data, uint64_t bytes, uint64_t offset);

  std::filesystem::path file_, temporary_;
  int fd_ = -1;
  std::map<std::string, Place> places_;
};

// As transformers splits: tensors in order, a new shard when the next one would exceed the limit.
inline constexpr int64_t kMaxShardBytes = 5'000'000'000;

// A whole model in a folder: model.safetensors, or model-00001-of-0000N.safetensors and their index.
class ModelWriter {
 public:
  ModelWriter(std::filesystem::path folder, const std::vector<TensorSpec>& specs, int64_t max_shard_bytes = kMaxShardBytes);
  void append(const std::string& name, const at::Tensor& rows);
  void commit();
  int64_t total_bytes() const { return total_bytes_; }
  std::vector<std::string> files() const;  // names in the folder, the index included

 private:
  std::filesystem::path folder_;
  std::vector<std::string> names_;  // of the shards
  std::vector<std::unique_ptr<SafetensorsWriter>> shards_;
  std::map<std::string, size_t> where_;
  int64_t total_bytes_ = 0, total_elements_ = 0;
};

}  // namespace tenon::host
