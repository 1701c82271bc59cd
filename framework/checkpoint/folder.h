#pragma once
// What lies in a checkpoint folder, judged by file names alone, and what to say when it is not what was expected.
#include <filesystem>
#include <string>

namespace tenon::host {

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kSingleFile = "model.safetensors";
inline constexpr const char* kIndexFile = "model.safetensors.index.json";

// Error(Data) unless `folder` is a folder with config.json: with the nearest sibling, the folder meant by a file, or what the folder is instead.
void check_checkpoint_folder(const std::filesystem::path& folder);

// Called when neither kSingleFile nor kIndexFile is there. Error(Data) when weights of another format or under another name are, saying what to do.
void refuse_foreign_weights(const std::filesystem::path& folder);

// True for "model-00001-of-00002.safetensors": no separators, no "..", nothing hidden in it.
bool is_plain_file_name(const std::string& name);

}  // namespace tenon::host
