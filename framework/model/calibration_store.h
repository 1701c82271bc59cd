#pragma once
// Blocks that calibration has finished, kept in a folder: a run that was killed goes on behind the last of them. Each file carries the key of what
// it was made from; one with another key is not taken.
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "tenon/quantizer.h"

namespace tenon::host {

struct KeptSlot {
  Tensors tensors;
  at::Tensor bias;  // undefined: none
};

class CalibrationStore {
 public:
  // An empty folder keeps nothing and finds nothing.
  explicit CalibrationStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // The key: the recipe's part, the tokens looked at, and the bytes of the checkpoint's weight files, which are hashed beside the first block.
  void identify(const Value& recipe, const at::Tensor& windows, std::shared_ptr<Checkpoint> checkpoint);

  // By path; absent when nothing was kept, or something else, or a damaged file (which is said).
  std::optional<std::map<std::string, KeptSlot>> read(const std::string& block);
  void write(const std::string& block, const std::map<std::string, KeptSlot>& slots, const Value& modules);

 private:
  const std::string& key();
  std::filesystem::path file(const std::string& block) const { return folder_ / (block + ".safetensors"); }

  std::filesystem::path folder_;
  std::future<std::string> pending_;
  std::string key_;
};

}  // namespace tenon::host
