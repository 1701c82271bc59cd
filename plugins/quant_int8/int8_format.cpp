// Files: bitsandbytes' layout of 8-bit weights inside safetensors, and its part of config.json.
#include <cmath>
#include <cstring>

#include "int8.h"

namespace tenon::int8 {

using namespace stable;

namespace {

// Packed weights have one name in the file; experts, fused and split layouts are not packed by bitsandbytes.
std::string file_name(const SlotSpec& slot, const TensorSource* file) {
  if (slot.kind == SlotKind::Experts) return "";
  for (const Source& source : slot.sources())
    if (source.pieces.size() == 1 && source.pieces[0].length < 0 && (!file || file->has(source.pieces[0].tensor)))
      return source.pieces[0].tensor;
  return "";
}

// "x.weight" -> "x.SCB"
std::string beside(const std::string& weight, const char* name) {
  const size_t dot = weight.rfind('.');
  return (dot == std::string::npos ? std::string() : weight.substr(0, dot + 1)) + name;
}

const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case kByte: return "uint8";
    case kChar: return "int8";
    case kFloat: return "float32";
    case kHalf: return "float16";
    case kBFloat16: return "bfloat16";
    default: return "another dtype";
  }
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

Tensor checked(const TensorSource& file, const std::string& name, ScalarType dtype, const std::vector<int64_t>& shape) {
  if (!file.has(name)) fail(ErrorCode::Data, "tensor '", name, "' is missing: the packed weight cannot be read without it");
  const TensorSpec found = file.spec(name);
  if (found.dtype != dtype || found.shape != shape)
    fail(ErrorCode::Data, "tensor '", name, "' is ", dtype_name(found.dtype), " ", shape_text(found.shape), ", expected ",
         dtype_name(dtype), " ", shape_text(shape));
  return ops::contiguous(file.read(name));
}

}  // namespace

std::optional<Value> Int8::recognise(const Value& config, const TensorSource&) const {
  if (config.string_or("quant_method", "") != "bitsandbytes" || !config.bool_or("load_in_8bit", config.bool_or("_load_in_8bit", false)))
    return std::nullopt;
  Value options = Value::table();
  const Value* threshold = config.find_set("llm_int8_threshold");
  options.set("threshold", threshold ? threshold->as_float() : 6.0);
  return options;
}

std::vector<std::string> Int8::locate(const SlotSpec& slot, const TensorSource& file) const {
  const std::string weight = file_name(slot, &file);
  if (weight.empty() || file.spec(weight).dtype != kChar) return {};
  std::vector<std::string> names{weight, beside(weight, "SCB")};
  if (file.has(beside(weight, "weight_format"))) names.push_back(beside(weight, "weight_format"));
  return names;
}

Tensors Int8::unpack(const SlotSpec& slot, const TensorSource& file) const {
  const std::string weight = file_name(slot, &file), format = beside(weight, "weight_format"), scales_name = beside(weight, "SCB");
  if (file.has(format)) {
    const Tensor stored = file.read(format);
    const int layout = stored.numel() == 1 && stored.scalar_type() == kByte ? *static_cast<const uint8_t*>(stored.const_data_ptr()) : -1;
    if (layout != 0)
      fail(ErrorCode::Data, "tensor '", format, "' says layout ", layout,
           ", expected 0 (row by row): save the model again with a newer bitsandbytes");
  }
  const Tensor codes = checked(file, weight, kChar, {slot.out, slot.in});
  const Tensor scales = checked(file, scales_name, kFloat, {slot.out});
  const auto* values = static_cast<const float*>(scales.const_data_ptr());
  for (int64_t i = 0; i < slot.out; ++i)
    if (!std::isfinite(values[i]) || values[i] < 0)
      fail(ErrorCode::Data, "tensor '", scales_name, "' holds ", values[i], " at ", i, ", expected a magnitude: the file is damaged");
  return {codes, scales};
}

std::vector<NamedTensor> Int8::pack(const SlotSpec& slot, const Tensors& tensors) const {
  const std::string weight = file_name(slot, nullptr);
  if (slot.kind == SlotKind::Experts)
    fail(ErrorCode::Recipe, "'", slot.path, "' holds experts, which bitsandbytes' files have no packed layout for; use format = \"hf\"");
  if (weight.empty()) fail(ErrorCode::Data, "'", slot.path, "' has no file name of its own in this layout, packed weights need one");
  return {{weight, ops::cpu(tensors[0])},
          {beside(weight, "SCB"), ops::cpu(tensors[1])},
          {beside(weight, "weight_format"), ops::full({}, 0, kByte)}};
}

Value Int8::quantization_config(const std::vector<std::string>& skipped_modules, ScalarType) const {
  Value config = Value::table();
  config.set("quant_method", "bitsandbytes");
  config.set("_load_in_4bit", false), config.set("_load_in_8bit", true);
  config.set("load_in_4bit", false), config.set("load_in_8bit", true);
  config.set("bnb_4bit_compute_dtype", "float32");
  config.set("bnb_4bit_quant_storage", "uint8");
  config.set("bnb_4bit_quant_type", "fp4");
  config.set("bnb_4bit_use_double_quant", false);
  config.set("llm_int8_enable_fp32_cpu_offload", false);
  config.set("llm_int8_has_fp16_weight", false);
  config.set("llm_int8_skip_modules", skipped_modules.empty() ? Value() : Value(skipped_modules));
  config.set("llm_int8_threshold", options_.threshold);
  return config;
}

}  // namespace tenon::int8
