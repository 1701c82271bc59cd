#pragma once
// Writes a model in memory as files that other programs open. Formats of the host's own: hf (a dense model folder) and peft (adapter folders); every
// other one is a quantizer's file format.
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "model/loaded_model.h"

namespace tenon::host {

struct ExportOptions {
  std::string format = {};  // empty: peft when there are adapters that are not to be merged, else hf
  std::filesystem::path to = {};
  bool merge = false;                                  // adapters into the weights
  std::string base_model = {};                         // what an adapter's config names as its base
  std::filesystem::path chat_template = {};            // the recipe's own; empty: the checkpoint's files as they are
  std::vector<std::string> quantizers_of_format = {};  // Registry::names_with("quantizer", "format", format)
  int64_t max_shard_bytes = kMaxShardBytes;
};

struct ExportReport {
  std::filesystem::path folder = {};
  std::string format = {};
  std::vector<std::string> files = {};  // in the folder
  int64_t bytes = 0;                    // of the weights
  std::vector<std::string> notes = {};
};

// The folder appears complete or not at all; one that an earlier export wrote is replaced. Adapters are enabled afterwards.
ExportReport export_model(LoadedModel& model, const ExportOptions& options);

// config.json, the dense weights in the model's dtype, generation_config.json and the tokenizer's files. Error(Recipe) when there are adapters and merge is off.
ExportReport export_hf(LoadedModel& model, const ExportOptions& options);
// The same with quantized slots packed as their quantizer writes them, and its quantization_config. Merged slots are quantized again.
ExportReport export_packed(LoadedModel& model, const ExportOptions& options);
// One adapter in the folder itself; those that are not named "default" in subfolders of their names.
ExportReport export_peft(LoadedModel& model, const ExportOptions& options);

}  // namespace tenon::host
