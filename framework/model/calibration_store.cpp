#include "model/calibration_store.h"

#include "base/json.h"
#include "base/log.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"

namespace tenon::host {

namespace {
constexpr const char* kKey = "tenon_calibration";
constexpr const char* kModules = "modules";
constexpr char kSeparator = '#';  // between a slot's path and the number of its tensor
constexpr const char* kBias = "bias";
}  // namespace

void CalibrationStore::identify(const Value& recipe, const at::Tensor& windows, std::shared_ptr<Checkpoint> checkpoint) {
  if (folder_.empty()) return;
  const at::Tensor ids = windows.contiguous();
  const std::string tokens = sha256({static_cast<const char*>(ids.const_data_ptr()), ids.nbytes()});
  pending_ = std::async(std::launch::async, [tokens, text = to_json(recipe), checkpoint = std::move(checkpoint)] {
    std::string all = text + tokens;
    if (checkpoint)
      for (const auto& file : checkpoint->files()) all += sha256_file(file);
    return sha256(all);
  });
}

const std::string& CalibrationStore::key() {
  if (key_.empty()) key_ = pending_.get();
  return key_;
}

std::optional<std::map<std::string, KeptSlot>> CalibrationStore::read(const std::string& block) {
  std::error_code ignored;
  if (folder_.empty() || !std::filesystem::exists(file(block), ignored)) return std::nullopt;
  try {
    const SafetensorsFile kept(file(block));
    const auto found = kept.header().metadata.find(kKey);
    if (found == kept.header().metadata.end() || found->second != key()) return std::nullopt;
    std::map<std::string, KeptSlot> slots;
    for (const std::string& name : kept.names()) {
      const size_t at = name.rfind(kSeparator);
      if (at == std::string::npos) fail(ErrorCode::Data, "tensor '", name, "' is none of a kept block");
      KeptSlot& slot = slots[name.substr(0, at)];
      if (const std::string which = name.substr(at + 1); which == kBias) {
        slot.bias = kept.read(name);
      } else {
        const auto index = static_cast<size_t>(std::stoul(which));
        if (index >= kept.names().size()) fail(ErrorCode::Data, "tensor '", name, "' is none of a kept block");
        if (slot.tensors.size() <= index) slot.tensors.resize(index + 1);
        slot.tensors[index] = kept.read(name);
      }
    }
    return slots;
  } catch (const std::exception& error) {
    log_warn(concat(file(block).string(), " is not used: ", error.what()));
    return std::nullopt;
  }
}

void CalibrationStore::write(const std::string& block, const std::map<std::string, KeptSlot>& slots, const Value& modules) {
  if (folder_.empty()) return;
  std::vector<NamedTensor> tensors;
  for (const auto& [path, slot] : slots) {
    for (size_t i = 0; i < slot.tensors.size(); ++i) tensors.push_back({concat(path, kSeparator, i), slot.tensors[i]});
    if (slot.bias.defined()) tensors.push_back({concat(path, kSeparator, kBias), slot.bias});
  }
  std::filesystem::create_directories(folder_);
  write_safetensors(file(block), tensors, {{"format", "pt"}, {kKey, key()}, {kModules, to_json(modules)}});
}

}  // namespace tenon::host
