#pragma once
// Adapter files in PEFT's layout.
#include <filesystem>
#include <string>
#include <vector>

#include "model/loaded_model.h"

namespace tenon::host {

// adapter_config.json, adapter_model.safetensors and README.md into an existing folder, each atomically. For export, and for training's own output.
void write_adapter_files(const std::filesystem::path& folder, const LoadedAdapter& loaded, const std::string& base_model);

// All adapters of a model: "default", or the only one, in the folder itself, others in subfolders of their names.
void write_adapters(const std::filesystem::path& folder, const std::vector<LoadedAdapter>& adapters, const std::string& base_model);

}  // namespace tenon::host
