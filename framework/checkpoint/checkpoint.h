#pragma once
// A Hugging Face folder: config.json, safetensors (one file or shards with an index), generation_config.json, tokenizer files.
// Opening reads headers only. Hostile or damaged files give Error(Data), never a crash or an over-read.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tenon/quantizer.h"
#include "tenon/value.h"

namespace tenon::host {

class SafetensorsFile;

// Ignore: for init = "random"; the folder's weights, whatever their format, are not looked at.
enum class Weights { Read, Ignore };

// Thread-safe after opening.
class Checkpoint final : public TensorSource {
 public:
  // A folder with config.json alone is enough for planning and for init = "random": has_weights() is false then. Weights in another format
  // than safetensors, with none in safetensors beside them, are Error(Data) that says how to convert.
  static std::shared_ptr<Checkpoint> open(const std::filesystem::path& folder, Weights weights = Weights::Read);
  ~Checkpoint() override;

  const std::filesystem::path& folder() const { return folder_; }
  const Value& config() const { return config_; }  // config.json
  Value generation_config() const;                 // generation_config.json, or null
  bool has_weights() const;

  std::vector<std::string> names() const override;  // sorted
  bool has(const std::string& name) const override;
  TensorSpec spec(const std::string& name) const override;  // Error(Data) when absent
  at::Tensor read(const std::string& name) const override;  // an owned copy
  // A tensor over the mapped file, valid while the checkpoint lives; never written to. Rows [first, last) of dimension 0.
  at::Tensor view(const std::string& name) const;
  at::Tensor view_rows(const std::string& name, int64_t first, int64_t last) const;
  // Lets the pages of those rows go from memory / asks for them to be read ahead.
  void release_rows(const std::string& name, int64_t first, int64_t last) const;
  void will_need_rows(const std::string& name, int64_t first, int64_t last) const;
  uint64_t total_bytes() const;                      // of all tensors
  std::vector<std::filesystem::path> files() const;  // the safetensors files

 private:
  Checkpoint() = default;
  void open_single();
  void open_shards();
  const SafetensorsFile& file_of(const std::string& name) const;

  std::filesystem::path folder_;
  Value config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, size_t> where_;  // tensor -> index into files_
};

}  // namespace tenon::host
