#include <algorithm>
#include <bit>
#include <cstring>

#include "base/json.h"
#include "checkpoint/dtype.h"
#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

// Entries need a depth of 3; the rest is for keys that later versions of the format may add.
constexpr JsonLimits kJsonLimits{.max_depth = 8, .max_values = 4'000'000};
constexpr size_t kMaxDimensions = 64;

std::string_view header_text(std::span<const std::byte> head, uint64_t file_bytes, const std::string& origin) {
  if (file_bytes < 8 || head.size() < 8)
    fail(ErrorCode::Data, origin, ": the file has ", file_bytes,
         " bytes; a safetensors file starts with 8 bytes that give the length of its header");
  uint64_t length = 0;
  std::memcpy(&length, head.data(), 8);
  const std::string_view start(reinterpret_cast<const char*>(head.data()), head.size());
  if (start.starts_with("version "))
    fail(ErrorCode::Data, origin, ": this is a Git LFS pointer, not the weights; run 'git lfs pull' in its repository");
  if (length == 0) fail(ErrorCode::Data, origin, ": the header is empty, expected a JSON object");
  if (length > kMaxSafetensorsHeader)
    fail(ErrorCode::Data, origin, ": the header claims ", length, " bytes, over the limit of ", kMaxSafetensorsHeader,
         "; this is no safetensors file or it is damaged");
  if (length > file_bytes - 8)
    fail(ErrorCode::Data, origin, ": the header claims ", length, " bytes but only ", file_bytes - 8,
         " follow; the file is truncated or damaged, download it again");
  if (length > head.size() - 8) fail(ErrorCode::Internal, origin, ": ", head.size(), " bytes given of a header of ", length);
  const std::string_view text = start.substr(8, length);
  if (text.front() != '{')
    fail(ErrorCode::Data, origin, ": the header does not start with '{'; this is no safetensors file or it is damaged");
  return text;
}

// Elements times size; nullopt when it does not fit 63 bits. Zeros count as ones, so that strides fit as well.
std::optional<uint64_t> padded_bytes(const std::vector<int64_t>& shape, size_t element) {
  int64_t product = static_cast<int64_t>(element);
  for (int64_t d : shape)
    if (__builtin_mul_overflow(product, std::max<int64_t>(d, 1), &product)) return std::nullopt;
  return static_cast<uint64_t>(product);
}

uint64_t natural(const Value& value, const char* what) {
  if (!value.is_int() || value.as_int() < 0) fail(ErrorCode::Data, what, " must hold whole numbers from 0 to 2^63 - 1");
  return static_cast<uint64_t>(value.as_int());
}

const Value& required(const Value& entry, std::string_view key) {
  const Value* value = entry.find(key);
  if (!value) fail(ErrorCode::Data, "'", key, "' is missing");
  return *value;
}

// Offsets relative to the data; unknown dtypes are left to the caller, who reports them together.
struct RawEntry {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

RawEntry read_entry(const Value& value) {
  if (!value.is_table()) fail(ErrorCode::Data, "expected an object with dtype, shape and data_offsets, found ", value.type_name());
  RawEntry entry;
  const Value& dtype = required(value, "dtype");
  if (!dtype.is_string()) fail(ErrorCode::Data, "'dtype' must be a string, found ", dtype.type_name());
  entry.dtype = dtype.as_string();
  const Value& shape = required(value, "shape");
  if (!shape.is_list()) fail(ErrorCode::Data, "'shape' must be a list, found ", shape.type_name());
  if (shape.as_list().size() > kMaxDimensions)
    fail(ErrorCode::Data, "'shape' has ", shape.as_list().size(), " dimensions, more than ", kMaxDimensions);
  for (const Value& d : shape.as_list()) entry.shape.push_back(static_cast<int64_t>(natural(d, "'shape'")));
  const Value& offsets = required(value, "data_offsets");
  if (!offsets.is_list() || offsets.as_list().size() != 2) fail(ErrorCode::Data, "'data_offsets' must be a list of two numbers");
  entry.begin = natural(offsets.as_list()[0], "'data_offsets'");
  entry.end = natural(offsets.as_list()[1], "'data_offsets'");
  return entry;
}

SafetensorsEntry checked_entry(const std::string& name, RawEntry raw, at::ScalarType dtype, uint64_t data_start, uint64_t data_bytes) {
  const auto bytes = padded_bytes(raw.shape, c10::elementSize(dtype));
  if (!bytes) fail(ErrorCode::Data, "the shape ", shape_text(raw.shape), " is too large");
  const bool is_empty = std::find(raw.shape.begin(), raw.shape.end(), 0) != raw.shape.end();
  const uint64_t expected = is_empty ? 0 : *bytes;
  if (raw.begin > raw.end) fail(ErrorCode::Data, "the data begins at ", raw.begin, " and ends before that, at ", raw.end);
  if (raw.end - raw.begin != expected)
    fail(ErrorCode::Data, raw.dtype, " ", shape_text(raw.shape), " takes ", expected, " bytes, but data_offsets [", raw.begin, ", ",
         raw.end, "] hold ", raw.end - raw.begin);
  if (raw.end > data_bytes)
    fail(ErrorCode::Data, "the data ends at byte ", raw.end, " but the file holds ", data_bytes,
         " bytes of data; it is truncated or damaged, download it again");
  return {TensorSpec{name, std::move(raw.shape), dtype}, data_start + raw.begin, expected};
}

// Tensors must cover the data exactly: nothing twice, nothing left over.
void check_coverage(const SafetensorsHeader& header, uint64_t data_start, uint64_t file_bytes, const std::string& origin) {
  std::vector<const SafetensorsEntry*> order;
  order.reserve(header.tensors.size());
  for (const auto& [name, entry] : header.tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return std::tie(a->offset, a->bytes) < std::tie(b->offset, b->bytes); });
  uint64_t position = data_start;
  const SafetensorsEntry* before = nullptr;
  for (const SafetensorsEntry* entry : order) {
    if (entry->offset < position)
      fail(ErrorCode::Data, origin, ": the data of tensors ", in_quotes(before->spec.name), " and ", in_quotes(entry->spec.name),
           " overlaps; the file is damaged");
    if (entry->offset > position)
      fail(ErrorCode::Data, origin, ": ", entry->offset - position, " bytes before tensor ", in_quotes(entry->spec.name),
           " belong to no tensor; the file is damaged");
    position += entry->bytes;
    before = entry;
  }
  if (position != file_bytes)
    fail(ErrorCode::Data, origin, ": ", file_bytes - position, " bytes at the end belong to no tensor; the file is damaged");
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> head, uint64_t file_bytes, const std::string& origin) {
  const std::string_view text = header_text(head, file_bytes, origin);
  const Value json = parse_json(text, origin, kJsonLimits);
  const uint64_t data_start = 8 + text.size(), data_bytes = file_bytes - data_start;

  SafetensorsHeader header;
  std::vector<std::string> unknown;
  size_t unknown_count = 0;
  for (const auto& [name, value] : json.as_table()) {
    if (name == "__metadata__") {
      if (!value.is_table()) fail(ErrorCode::Data, origin, ": __metadata__ must be an object, found ", value.type_name());
      for (const auto& [key, item] : value.as_table()) {
        if (!item.is_string())
          fail(ErrorCode::Data, origin, ": __metadata__ must hold strings; ", in_quotes(key), " is ", item.type_name());
        header.metadata[key] = item.as_string();
      }
      continue;
    }
    with_context(origin, [&] {
      with_context(concat("tensor ", in_quotes(name)), [&] {
        RawEntry raw = read_entry(value);
        const auto dtype = dtype_from_safetensors(raw.dtype);
        if (!dtype) {
          if (unknown_count++ < 5) unknown.push_back(concat(in_quotes(raw.dtype), " of tensor ", in_quotes(name)));
          return;
        }
        header.tensors.emplace(name, checked_entry(name, std::move(raw), *dtype, data_start, data_bytes));
      });
    });
  }
  if (unknown_count > 0) {
    std::string list;
    for (const auto& item : unknown) list += (list.empty() ? "" : ", ") + item;
    if (unknown_count > unknown.size()) list += concat(" and ", unknown_count - unknown.size(), " more");
    fail(ErrorCode::Data, origin, ": unknown dtype ", list,
         "; known are the floating, integer and boolean types of LibTorch, F64 to F8_E8M0");
  }
  check_coverage(header, data_start, file_bytes, origin);
  return header;
}

}  // namespace tenon::host
