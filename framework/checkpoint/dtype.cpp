#include "checkpoint/dtype.h"

namespace tenon::host {

namespace {
struct Row {
  at::ScalarType dtype;
  std::string_view safetensors, config;
};
constexpr Row kRows[] = {
    {at::kFloat, "F32", "float32"},
    {at::kBFloat16, "BF16", "bfloat16"},
    {at::kHalf, "F16", "float16"},
    {at::kDouble, "F64", "float64"},
    {at::kByte, "U8", "uint8"},
    {at::kChar, "I8", "int8"},
    {at::kShort, "I16", "int16"},
    {at::kInt, "I32", "int32"},
    {at::kLong, "I64", "int64"},
    {at::kBool, "BOOL", "bool"},
    {at::kUInt16, "U16", "uint16"},
    {at::kUInt32, "U32", "uint32"},
    {at::kUInt64, "U64", "uint64"},
    {at::kFloat8_e4m3fn, "F8_E4M3", "float8_e4m3fn"},
    {at::kFloat8_e5m2, "F8_E5M2", "float8_e5m2"},
    {at::kFloat8_e4m3fnuz, "F8_E4M3FNUZ", "float8_e4m3fnuz"},
    {at::kFloat8_e5m2fnuz, "F8_E5M2FNUZ", "float8_e5m2fnuz"},
    {at::kFloat8_e8m0fnu, "F8_E8M0", "float8_e8m0fnu"},
    {at::kComplexFloat, "C64", "complex64"},
};
}  // namespace

std::optional<at::ScalarType> dtype_from_safetensors(std::string_view name) {
  for (const Row& row : kRows)
    if (row.safetensors == name) return row.dtype;
  return std::nullopt;
}

std::string_view safetensors_name(at::ScalarType dtype) {
  for (const Row& row : kRows)
    if (row.dtype == dtype) return row.safetensors;
  return {};
}

std::string_view config_name(at::ScalarType dtype) {
  for (const Row& row : kRows)
    if (row.dtype == dtype) return row.config;
  return {};
}

}  // namespace tenon::host
