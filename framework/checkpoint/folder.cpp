#include "checkpoint/folder.h"

#include <algorithm>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "checkpoint/printable.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

constexpr size_t kMostEntries = 10'000;

std::vector<std::string> entry_names(const fs::path& folder, bool folders_only) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end && names.size() < kMostEntries; it.increment(error)) {
    std::error_code ignored;
    if (!folders_only || it->is_directory(ignored)) names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string near_folder(const fs::path& folder) {
  const fs::path parent = folder.has_parent_path() ? folder.parent_path() : fs::path(".");
  std::error_code error;
  if (!fs::is_directory(parent, error)) return concat("; its parent ", parent.string(), " does not exist either");
  return did_you_mean(folder.filename().string(), entry_names(parent, true));
}

// The one subfolder with a config.json, as in a hub cache's snapshots/<revision>.
std::string inner_checkpoint(const fs::path& folder) {
  std::vector<std::string> found;
  for (const auto& name : entry_names(folder, true)) {
    if (is_file(folder / name / kConfigFile)) found.push_back(name);
    if (name == "snapshots")
      for (const auto& revision : entry_names(folder / name, true))
        if (is_file(folder / name / revision / kConfigFile)) found.push_back(name + "/" + revision);
  }
  if (found.empty()) return {};
  return concat("; did you mean its subfolder ", in_quotes(found.front()), found.size() > 1 ? " (or another of its subfolders)" : "", "?");
}

}  // namespace

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

void check_checkpoint_folder(const fs::path& given) {
  fs::path folder = given.lexically_normal();
  if (!folder.has_filename() && folder.has_parent_path()) folder = folder.parent_path();
  std::error_code error;
  const auto status = fs::status(folder, error);
  if (!fs::exists(status)) fail(ErrorCode::Data, "the checkpoint folder ", folder.string(), " does not exist", near_folder(folder));
  if (!fs::is_directory(status)) {
    const fs::path parent = folder.parent_path();
    fail(ErrorCode::Data, folder.string(), " is a file, expected a Hugging Face folder",
         is_file(parent / kConfigFile) ? concat("; name its folder instead: ", parent.string())
                                       : " that holds config.json and safetensors files");
  }
  if (is_file(folder / kConfigFile)) return;
  if (fs::is_symlink(folder / kConfigFile, error))
    fail(ErrorCode::Data, (folder / kConfigFile).string(), " is a link to a file that does not exist; download the model again");
  if (is_file(folder / "adapter_config.json"))
    fail(ErrorCode::Data, folder.string(),
         " is an adapter folder (adapter_config.json, no config.json); name it as the path of an adapter, and the base model's folder as "
         "the model's path");
  fail(ErrorCode::Data, folder.string(), " has no config.json, expected a Hugging Face folder", inner_checkpoint(folder));
}

void refuse_foreign_weights(const fs::path& folder) {
  for (const auto& name : {std::string(kSingleFile), std::string(kIndexFile)}) {
    std::error_code error;
    if (fs::is_symlink(folder / name, error))
      fail(ErrorCode::Data, (folder / name).string(), " is a link to a file that does not exist; download the model again");
  }
  std::vector<std::string> pickled, gguf, other, shards;
  for (const auto& name : entry_names(folder, false)) {
    const std::string ending = fs::path(name).extension().string();
    if (ending == ".gguf")
      gguf.push_back(name);
    else if (ending == ".bin" && name.find("model") != std::string::npos)
      pickled.push_back(name);
    else if (ending == ".pth" || ending == ".pt" || ending == ".h5" || ending == ".msgpack")
      pickled.push_back(name);
    else if (ending == ".safetensors" && name.starts_with("model-") && name.find("-of-") != std::string::npos)
      shards.push_back(name);
    else if (ending == ".safetensors" && !name.starts_with("adapter_"))
      other.push_back(name);
  }
  const std::string where = folder.string();
  if (!shards.empty())
    fail(ErrorCode::Data, where, " holds ", shards.size(), " shards such as ", in_quotes(shards.front()), " but not their index ",
         kIndexFile, "; download the index as well");
  if (!other.empty())
    fail(ErrorCode::Data, where, " holds ", in_quotes(other.front()), ", expected ", kSingleFile, " or ", kIndexFile,
         "; if its tensors carry the names of transformers, rename it to ", kSingleFile);
  if (pickled.empty() && gguf.empty()) return;
  const bool from_gguf = pickled.empty();
  fail(ErrorCode::Data, where, " holds its weights as ", in_quotes(from_gguf ? gguf.front() : pickled.front()),
       ", expected safetensors; convert them once with\n  python -c \"from transformers import AutoModelForCausalLM as M; "
       "M.from_pretrained('",
       where, "'", from_gguf ? concat(", gguf_file='", gguf.front(), "'") : std::string(), ").save_pretrained('", where,
       "-safetensors')\"\n  (and copy the tokenizer files beside them)");
}

}  // namespace tenon::host
