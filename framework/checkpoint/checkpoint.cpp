#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/folder.h"
#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

constexpr size_t kMostListed = 20;

// All problems of one index in one error.
class Problems {
 public:
  void add(std::string text) {
    if (count_++ < kMostListed) list_ += "\n  " + text;
  }
  void throw_if_any(const fs::path& index) const {
    if (count_ == 0) return;
    fail(ErrorCode::Data, index.string(), ": ", count_, count_ == 1 ? " problem" : " problems", " with the shards", list_,
         count_ > kMostListed ? concat("\n  and ", count_ - kMostListed, " more") : "");
  }

 private:
  size_t count_ = 0;
  std::string list_;
};

}  // namespace

Checkpoint::~Checkpoint() = default;

std::shared_ptr<Checkpoint> Checkpoint::open(const fs::path& folder, Weights weights) {
  check_checkpoint_folder(folder);
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->folder_ = folder;
  checkpoint->config_ = read_json_file(folder / kConfigFile);
  if (!checkpoint->config_.is_table())
    fail(ErrorCode::Data, (folder / kConfigFile).string(), ": expected a JSON object, found ", checkpoint->config_.type_name());
  if (weights == Weights::Ignore) return checkpoint;
  // As in transformers, the single file comes before the index.
  if (is_file(folder / kSingleFile))
    checkpoint->open_single();
  else if (is_file(folder / kIndexFile))
    checkpoint->open_shards();
  else
    refuse_foreign_weights(folder);
  return checkpoint;
}

void Checkpoint::open_single() {
  files_.push_back(std::make_unique<SafetensorsFile>(folder_ / kSingleFile));
  for (const auto& [name, entry] : files_[0]->header().tensors) where_.emplace(name, 0);
}

void Checkpoint::open_shards() {
  const fs::path index = folder_ / kIndexFile;
  const Value json = read_json_file(index);
  const Value* weight_map = json.find("weight_map");
  if (!weight_map || !weight_map->is_table())
    fail(ErrorCode::Data, index.string(), ": expected an object with 'weight_map', an object of tensor names and file names");

  if (weight_map->as_table().empty()) fail(ErrorCode::Data, index.string(), ": 'weight_map' is empty; download the index again");

  Problems problems;
  std::map<std::string, size_t> shard_index;  // file name -> index into files_
  std::vector<std::pair<std::string, std::string>> claims;
  std::set<std::string> refused;
  for (const auto& [name, value] : weight_map->as_table()) {
    if (!value.is_string()) {
      problems.add(concat("tensor ", in_quotes(name), ": expected a file name, found ", value.type_name()));
      continue;
    }
    const std::string& shard = value.as_string();
    claims.emplace_back(name, shard);
    if (shard_index.count(shard) || refused.count(shard)) continue;
    if (!is_plain_file_name(shard)) {
      problems.add(concat("shard ", in_quotes(shard), " is not a plain file name inside the folder"));
    } else if (!is_file(folder_ / shard)) {
      std::error_code error;
      problems.add(concat("shard ", in_quotes(shard),
                          fs::is_symlink(folder_ / shard, error) ? " is a link to a file that does not exist" : " is absent",
                          "; download it"));
    } else {
      try {
        auto file = std::make_unique<SafetensorsFile>(folder_ / shard);
        shard_index.emplace(shard, files_.size());
        files_.push_back(std::move(file));
        continue;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::Data) throw;
        problems.add(error.what());
      }
    }
    refused.insert(shard);
  }

  for (size_t i = 0; i < files_.size(); ++i)
    for (const auto& [name, entry] : files_[i]->header().tensors)
      if (auto [it, is_new] = where_.emplace(name, i); !is_new)
        problems.add(concat("tensor ", in_quotes(name), " is in two shards, ", in_quotes(files_[it->second]->path().filename().string()),
                            " and ", in_quotes(files_[i]->path().filename().string())));
  for (const auto& [name, shard] : claims) {
    auto file = shard_index.find(shard);
    if (file == shard_index.end() || files_[file->second]->has(name)) continue;
    auto found = where_.find(name);
    problems.add(
        concat("tensor ", in_quotes(name), " is not in ", in_quotes(shard),
               found == where_.end() ? std::string() : concat(" but in ", in_quotes(files_[found->second]->path().filename().string()))));
  }
  problems.throw_if_any(index);
}

Value Checkpoint::generation_config() const {
  const fs::path file = folder_ / "generation_config.json";
  return is_file(file) ? read_json_file(file) : Value();
}

bool Checkpoint::has_weights() const { return !files_.empty(); }

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(where_.size());
  for (const auto& [name, file] : where_) names.push_back(name);
  return names;
}

bool Checkpoint::has(const std::string& name) const { return where_.count(name) > 0; }

const SafetensorsFile& Checkpoint::file_of(const std::string& name) const {
  auto it = where_.find(name);
  if (it == where_.end()) fail(ErrorCode::Data, folder_.string(), " has no tensor ", in_quotes(name));
  return *files_[it->second];
}

TensorSpec Checkpoint::spec(const std::string& name) const { return file_of(name).spec(name); }
at::Tensor Checkpoint::read(const std::string& name) const { return file_of(name).read(name); }

at::Tensor Checkpoint::view(const std::string& name) const {
  const TensorSpec s = spec(name);
  return view_rows(name, 0, s.shape.empty() ? 1 : s.shape[0]);
}
at::Tensor Checkpoint::view_rows(const std::string& name, int64_t first, int64_t last) const {
  return file_of(name).view_rows(name, first, last);
}
void Checkpoint::release_rows(const std::string& name, int64_t first, int64_t last) const { file_of(name).release_rows(name, first, last); }
void Checkpoint::will_need_rows(const std::string& name, int64_t first, int64_t last) const {
  file_of(name).will_need_rows(name, first, last);
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t total = 0;
  for (const auto& file : files_)
    for (const auto& [name, entry] : file->header().tensors) total += entry.bytes;
  return total;
}

std::vector<fs::path> Checkpoint::files() const {
  std::vector<fs::path> paths;
  for (const auto& file : files_) paths.push_back(file->path());
  return paths;
}

}  // namespace tenon::host
