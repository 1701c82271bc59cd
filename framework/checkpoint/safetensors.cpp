#include "checkpoint/safetensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstring>

#include "checkpoint/printable.h"
#include "tenon/error.h"

namespace tenon::host {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file)
    : path_(file),
      map_(std::make_unique<MappedFile>(file)),
      header_(parse_safetensors_header(map_->bytes(), map_->bytes().size(), file.string())) {}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  names.reserve(header_.tensors.size());
  for (const auto& [name, entry] : header_.tensors) names.push_back(name);
  return names;
}

bool SafetensorsFile::has(const std::string& name) const { return header_.tensors.count(name) > 0; }

TensorSpec SafetensorsFile::spec(const std::string& name) const {
  auto it = header_.tensors.find(name);
  if (it == header_.tensors.end()) fail(ErrorCode::Data, path_.string(), " has no tensor ", in_quotes(name));
  return it->second.spec;
}

SafetensorsFile::Range SafetensorsFile::range(const std::string& name, int64_t first, int64_t last) const {
  auto it = header_.tensors.find(name);
  if (it == header_.tensors.end()) fail(ErrorCode::Data, path_.string(), " has no tensor ", in_quotes(name));
  const SafetensorsEntry& entry = it->second;
  const int64_t rows = entry.spec.shape.empty() ? 1 : entry.spec.shape[0];
  if (first < 0 || first > last || last > rows)
    fail(ErrorCode::Internal, "rows [", first, ", ", last, ") asked for of tensor ", in_quotes(name), " with ", rows, " rows");
  const uint64_t row_bytes = rows == 0 ? 0 : entry.bytes / static_cast<uint64_t>(rows);
  return {&entry, entry.offset + static_cast<uint64_t>(first) * row_bytes, static_cast<uint64_t>(last - first) * row_bytes};
}

at::Tensor SafetensorsFile::view_rows(const std::string& name, int64_t first, int64_t last) const {
  const Range r = range(name, first, last);
  std::vector<int64_t> shape = r.entry->spec.shape;
  if (!shape.empty()) shape[0] = last - first;
  const auto options = at::TensorOptions().dtype(r.entry->spec.dtype);
  const std::byte* data = map_->bytes().data() + r.offset;
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(r.entry->spec.dtype) == 0)
    return at::from_blob(const_cast<std::byte*>(data), shape, options);
  at::Tensor copy = at::empty(shape, options);
  if (r.bytes) std::memcpy(copy.mutable_data_ptr(), data, r.bytes);
  return copy;
}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const TensorSpec s = spec(name);
  const Range r = range(name, 0, s.shape.empty() ? 1 : s.shape[0]);
  at::Tensor copy = at::empty(s.shape, at::TensorOptions().dtype(s.dtype));
  if (r.bytes) std::memcpy(copy.mutable_data_ptr(), map_->bytes().data() + r.offset, r.bytes);
  return copy;
}

void SafetensorsFile::release_rows(const std::string& name, int64_t first, int64_t last) const {
  const Range r = range(name, first, last);
  if (r.bytes) map_->release(r.offset, r.bytes);
}

void SafetensorsFile::will_need_rows(const std::string& name, int64_t first, int64_t last) const {
  const Range r = range(name, first, last);
  if (r.bytes) map_->will_need(r.offset, r.bytes);
}

}  // namespace tenon::host
