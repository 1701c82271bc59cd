#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/dtype.h"
#include "checkpoint/folder.h"
#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"
#include "tenon/error.h"
#include "tenon/value.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kPanelBytes = int64_t{64} << 20;  // copied at a time where a tensor is not plain CPU memory

[[noreturn]] void fail_errno(const fs::path& file, const char* what) {
  const int reason = errno;
  fail(ErrorCode::Data, file.string(), ": ", what, ": ", std::strerror(reason));
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

void require_room(const fs::path& folder, uint64_t bytes) {
  std::error_code error;
  const auto room = fs::space(folder.empty() ? "." : folder, error);
  if (!error && room.available < bytes)
    fail(ErrorCode::Data, "writing to ", folder.string(), " needs ", human_bytes(static_cast<int64_t>(bytes)), " but the disk has ",
         human_bytes(static_cast<int64_t>(room.available)), " left; free some or write elsewhere");
}

Value entry_json(const TensorSpec& spec, uint64_t begin, uint64_t end) {
  Value entry = Value::table();
  entry.set("dtype", safetensors_name(spec.dtype));
  entry.set("shape", Value(spec.shape));
  entry.set("data_offsets", Value(Value::List{Value(static_cast<int64_t>(begin)), Value(static_cast<int64_t>(end))}));
  return entry;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(fs::path file, const std::vector<TensorSpec>& specs,
                                     const std::map<std::string, std::string>& metadata)
    : file_(std::move(file)) {
  std::vector<const TensorSpec*> order;
  for (const auto& spec : specs) {
    if (safetensors_name(spec.dtype).empty())
      fail(ErrorCode::Data, "tensor ", in_quotes(spec.name), " has dtype ", c10::toString(spec.dtype),
           ", which safetensors files cannot hold");
    if (spec.name == "__metadata__") fail(ErrorCode::Internal, "a tensor may not be named __metadata__");
    order.push_back(&spec);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return c10::elementSize(a->dtype) > c10::elementSize(b->dtype); });

  // Joined by hand: a Value table looks for each key among all earlier ones.
  std::string text = "{";
  if (!metadata.empty()) {
    Value strings = Value::table();
    for (const auto& [key, value] : metadata) strings.set(key, value);
    text += "\"__metadata__\":" + to_json(strings);
  }
  uint64_t position = 0;
  for (const TensorSpec* spec : order) {
    const auto bytes = static_cast<uint64_t>(spec->bytes());
    if (!places_.emplace(spec->name, Place{*spec, position, 0, bytes}).second)
      fail(ErrorCode::Internal, "tensor ", in_quotes(spec->name), " is to be written twice");
    if (text.size() > 1) text += ',';
    text += to_json(Value(spec->name)) + ":" + to_json(entry_json(*spec, position, position + bytes));
    position += bytes;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxSafetensorsHeader)
    fail(ErrorCode::Data, file_.string(), ": the header would take ", text.size(), " bytes, over the format's limit");
  for (auto& [name, place] : places_) place.offset += 8 + text.size();

  const fs::path folder = file_.parent_path();
  require_room(folder, position + text.size());
  temporary_ = folder / concat(".", file_.filename().string(), ".", ::getpid(), ".part");
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_errno(temporary_, "cannot be created");
  const uint64_t length = text.size();
  try {
    write_at(&length, 8, 0);
    write_at(text.data(), text.size(), 8);
  } catch (...) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void SafetensorsWriter::write_at(const void* data, uint64_t bytes, uint64_t offset) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, from, std::min<uint64_t>(bytes, uint64_t{1} << 30), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_errno(file_, "cannot be written");
    from += n, bytes -= static_cast<uint64_t>(n), offset += static_cast<uint64_t>(n);
  }
}

void SafetensorsWriter::append(const std::string& name, const at::Tensor& rows) {
  auto it = places_.find(name);
  if (it == places_.end()) fail(ErrorCode::Internal, file_.string(), ": tensor ", in_quotes(name), " was not announced");
  Place& place = it->second;
  const auto bytes = static_cast<uint64_t>(rows.numel()) * rows.element_size();
  if (rows.scalar_type() != place.spec.dtype || place.written + bytes > place.bytes)
    fail(ErrorCode::Internal, "tensor ", in_quotes(name), " was announced as ", c10::toString(place.spec.dtype), " ",
         shape_text(place.spec.shape), ", ", place.written, " bytes are written, and ", c10::toString(rows.scalar_type()), " ",
         shape_text(rows.sizes().vec()), " follows");
  if (bytes == 0) return;
  const at::Tensor source = rows.detach();
  if (source.device().is_cpu() && source.is_contiguous()) {
    write_at(source.const_data_ptr(), bytes, place.offset + place.written);
    place.written += bytes;
    return;
  }
  const int64_t count = source.dim() == 0 ? 1 : source.size(0);
  const int64_t panel = std::max<int64_t>(1, kPanelBytes / static_cast<int64_t>(bytes / static_cast<uint64_t>(count)));
  for (int64_t first = 0; first < count; first += panel) {
    const at::Tensor part = (source.dim() == 0 ? source : source.narrow(0, first, std::min(panel, count - first))).cpu().contiguous();
    write_at(part.const_data_ptr(), part.nbytes(), place.offset + place.written);
    place.written += part.nbytes();
  }
}

void SafetensorsWriter::commit() {
  for (const auto& [name, place] : places_)
    if (place.written != place.bytes)
      fail(ErrorCode::Internal, file_.string(), ": of tensor ", in_quotes(name), " ", place.written, " of ", place.bytes,
           " bytes were written");
  if (::fsync(fd_) != 0) fail_errno(file_, "cannot be written");
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 || ::rename(temporary_.c_str(), file_.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary_.c_str());
    errno = reason;
    fail_errno(file_, "cannot be put in place");
  }
  sync_folder(file_.parent_path());
}

void write_safetensors(const fs::path& file, const std::vector<NamedTensor>& tensors, const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.sizes().vec(), tensor.scalar_type()});
  SafetensorsWriter writer(file, specs, metadata);
  for (const auto& [name, tensor] : tensors) writer.append(name, tensor);
  writer.commit();
}

ModelWriter::ModelWriter(fs::path folder, const std::vector<TensorSpec>& specs, int64_t max_shard_bytes) : folder_(std::move(folder)) {
  std::vector<std::vector<TensorSpec>> shards(1);
  int64_t in_shard = 0;
  for (const auto& spec : specs) {
    if (!shards.back().empty() && in_shard + spec.bytes() > max_shard_bytes) shards.emplace_back(), in_shard = 0;
    shards.back().push_back(spec);
    in_shard += spec.bytes();
    total_bytes_ += spec.bytes();
    total_elements_ += spec.numel();
    if (!where_.emplace(spec.name, shards.size() - 1).second)
      fail(ErrorCode::Internal, "tensor ", in_quotes(spec.name), " is to be written twice");
  }
  require_room(folder_, static_cast<uint64_t>(total_bytes_));
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    names_.push_back(shards.size() == 1 ? kSingleFile : name);
    shards_.push_back(std::make_unique<SafetensorsWriter>(folder_ / names_.back(), shards[i]));
  }
}

void ModelWriter::append(const std::string& name, const at::Tensor& rows) {
  auto it = where_.find(name);
  if (it == where_.end()) fail(ErrorCode::Internal, "tensor ", in_quotes(name), " was not announced");
  shards_[it->second]->append(name, rows);
}

void ModelWriter::commit() {
  for (auto& shard : shards_) shard->commit();
  if (names_.size() == 1) return;
  Value metadata = Value::table();
  metadata.set("total_parameters", total_elements_);
  metadata.set("total_size", total_bytes_);
  // Joined by hand, as the headers are: models of experts have tens of thousands of names.
  std::string text = "{\n  \"metadata\": " + to_json(metadata) + ",\n  \"weight_map\": {";
  const char* separator = "\n";
  for (const auto& [name, shard] : where_) {
    text += separator + ("    " + to_json(Value(name)) + ": " + to_json(Value(names_[shard])));
    separator = ",\n";
  }
  write_file(folder_ / kIndexFile, text + "\n  }\n}\n");
}

std::vector<std::string> ModelWriter::files() const {
  std::vector<std::string> files = names_;
  if (names_.size() > 1) files.emplace_back(kIndexFile);
  return files;
}

}  // namespace tenon::host
