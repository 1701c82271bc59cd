// Files: bitsandbytes' layout of 4-bit weights inside safetensors, and its part of config.json.
#include <cmath>
#include <cstring>

#include "nf4.h"
#include "tenon/stable/ops.h"

namespace tenon::nf4 {

namespace {

const char* python_name(ScalarType dtype) { return dtype == kFloat ? "float32" : dtype == kHalf ? "float16" : "bfloat16"; }

ScalarType storage_dtype(const std::string& name) {
  return name == "uint8" ? kByte : name == "float32" ? kFloat : name == "float16" ? kHalf : kBFloat16;
}

// Packed weights have one name in the file; experts, fused and split layouts are not packed by bitsandbytes.
std::string file_name(const SlotSpec& slot, const TensorSource* file) {
  if (slot.kind == SlotKind::Experts) return "";
  for (const Source& source : slot.sources())
    if (source.pieces.size() == 1 && source.pieces[0].length < 0 && (!file || file->has(source.pieces[0].tensor)))
      return source.pieces[0].tensor;
  return "";
}

Tensor floats(std::span<const float> values) {
  const Tensor t = ops::empty({static_cast<int64_t>(values.size())}, kFloat);
  std::memcpy(t.mutable_data_ptr(), values.data(), values.size_bytes());
  return t;
}

size_t bytes_of(const Tensor& t) { return static_cast<size_t>(t.numel()) * t.element_size(); }

Tensor checked(const TensorSource& file, const std::string& name, ScalarType dtype, int64_t numel) {
  if (!file.has(name)) fail(ErrorCode::Data, "tensor '", name, "' is missing: the packed weight cannot be read without it");
  const Tensor t = file.read(name);
  if (t.scalar_type() != dtype || t.numel() != numel)
    fail(ErrorCode::Data, "tensor '", name, "' is ", torch::headeronly::toString(t.scalar_type()), " with ", t.numel(),
         " elements, expected ", torch::headeronly::toString(dtype), " with ", numel);
  return ops::contiguous(t);
}

void require_finite(const Tensor& t, const std::string& name) {
  const float* v = t.const_data_ptr<float>();
  for (int64_t i = 0; i < t.numel(); ++i)
    if (!std::isfinite(v[i])) fail(ErrorCode::Data, "tensor '", name, "' holds ", v[i], " at ", i, ": the file is damaged");
}

void require_values(const Tensor& t, std::span<const float> expected, const std::string& name) {
  if (std::memcmp(t.const_data_ptr(), expected.data(), expected.size_bytes()) != 0)
    fail(ErrorCode::Data, "tensor '", name, "' is not the code table of this format");
}

// The JSON text that a packed weight carries as bytes.
Value read_state(const TensorSource& file, const std::string& name) {
  const Tensor bytes = file.read(name);
  if (bytes.scalar_type() != kByte) fail(ErrorCode::Data, "tensor '", name, "' is not the bytes of a JSON text");
  return parse_json({static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.numel())}, name);
}

}  // namespace

std::optional<Value> Quantizer4Bit::recognise(const Value& config, const TensorSource& file) const {
  if (config.string_or("quant_method", "") != "bitsandbytes" || !config.bool_or("load_in_4bit", config.bool_or("_load_in_4bit", false)))
    return std::nullopt;
  if (config.string_or("bnb_4bit_quant_type", "fp4") != type_name()) return std::nullopt;
  Value options = Value::table();
  options.set("double_quant", config.bool_or("bnb_4bit_use_double_quant", false));
  const std::string compute = config.string_or("bnb_4bit_compute_dtype", "float32");
  options.set("compute_dtype", compute.rfind("torch.", 0) == 0 ? compute.substr(6) : compute);
  const std::string storage = config.string_or("bnb_4bit_quant_storage", "uint8");
  options.set("quant_storage", storage.rfind("torch.", 0) == 0 ? storage.substr(6) : storage);
  // config.json does not say the block size, every packed weight does; unpack() holds the others to the first.
  const std::string suffix = concat(".quant_state.bitsandbytes__", type_name());
  for (const std::string& name : file.names())
    if (name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0) {
      const int64_t block = read_state(file, name).int_or("blocksize", 64);
      if (!is_block_size(block))
        fail(ErrorCode::Data, "'", name, "': blocks of ", block, " weights, expected a power of two from 32 to 4096");
      options.set("block_size", block);
      break;
    }
  return options;
}

std::vector<std::string> Quantizer4Bit::locate(const SlotSpec& slot, const TensorSource& file) const {
  const std::string weight = file_name(slot, &file);
  const std::string state = weight + ".quant_state.bitsandbytes__" + type_name();
  if (weight.empty() || !file.has(state)) return {};
  std::vector<std::string> names{weight, state, weight + ".absmax", weight + ".quant_map"};
  if (options_.double_quant) names.insert(names.end(), {weight + ".nested_absmax", weight + ".nested_quant_map"});
  return names;
}

Tensors Quantizer4Bit::unpack(const SlotSpec& slot, const TensorSource& file) const {
  const std::string weight = file_name(slot, &file);
  const std::string state_name = weight + ".quant_state.bitsandbytes__" + type_name();
  const Value state = read_state(file, state_name);
  const int64_t block = state.int_or("blocksize", 0);
  if (block != options_.block_size)
    fail(ErrorCode::Data, "'", weight, "' is packed in blocks of ", block, ", block_size is ", options_.block_size);
  const bool nested = state.find_set("nested_blocksize") != nullptr;
  if (nested != options_.double_quant)
    fail(ErrorCode::Data, "'", weight, "' is ", nested ? "" : "not ", "double-quantized, config.json says otherwise");
  const Value expected_shape(std::vector<int64_t>{slot.out, slot.in});
  if (!(state.at("shape") == expected_shape))
    fail(ErrorCode::Data, "'", weight, "' is packed from shape ", to_json(state.at("shape")), ", expected ", to_json(expected_shape));

  const Tensor stored = ops::contiguous(file.read(weight));
  const int64_t codes_bytes = code_bytes(slot.numel());
  // Wider storage dtypes round the bytes up to whole elements.
  const int64_t element = stored.numel() > 0 ? static_cast<int64_t>(bytes_of(stored)) / stored.numel() : 1;
  if (const int64_t expected = (codes_bytes + element - 1) / element * element; static_cast<int64_t>(bytes_of(stored)) != expected)
    fail(ErrorCode::Data, "tensor '", weight, "' has ", bytes_of(stored), " bytes, expected ", expected);
  const Tensor codes = ops::empty({codes_bytes, 1}, kByte);
  std::memcpy(codes.mutable_data_ptr(), stored.const_data_ptr(), static_cast<size_t>(codes_bytes));
  require_values(checked(file, weight + ".quant_map", kFloat, kCodes), code_values(codebook_), weight + ".quant_map");

  const int64_t blocks = block_count(slot.numel(), block);
  if (!nested) {
    Tensor absmax = checked(file, weight + ".absmax", kFloat, blocks);
    require_finite(absmax, weight + ".absmax");
    return {codes, ops::reshape(absmax, {blocks})};
  }
  if (state.int_or("nested_blocksize", 0) != kNestedBlock)
    fail(ErrorCode::Data, "'", weight, "': nested blocks of ", state.int_or("nested_blocksize", 0), ", expected ", kNestedBlock);
  require_values(checked(file, weight + ".nested_quant_map", kFloat, kNestedCodes), nested_code_values(), weight + ".nested_quant_map");
  const Tensor absmax = checked(file, weight + ".absmax", kByte, blocks);
  const Tensor nested_absmax = checked(file, weight + ".nested_absmax", kFloat, block_count(blocks, kNestedBlock));
  require_finite(nested_absmax, weight + ".nested_absmax");
  const Tensor offset = ops::empty({}, kFloat);
  *offset.mutable_data_ptr<float>() = static_cast<float>(state.at("nested_offset").as_float());
  require_finite(offset, state_name + " nested_offset");
  return {codes, ops::reshape(absmax, {blocks}), ops::reshape(nested_absmax, {-1}), offset};
}

std::vector<NamedTensor> Quantizer4Bit::pack(const SlotSpec& slot, const Tensors& tensors) const {
  const std::string weight = file_name(slot, nullptr);
  if (slot.kind == SlotKind::Experts)
    fail(ErrorCode::Recipe, "'", slot.path, "' holds experts, which bitsandbytes' files have no packed layout for; use format = \"hf\"");
  if (weight.empty()) fail(ErrorCode::Data, "'", slot.path, "' has no file name of its own in this layout, packed weights need one");
  Value state = Value::table();
  state.set("quant_type", type_name());
  state.set("blocksize", options_.block_size);
  state.set("dtype", python_name(slot.dtype));
  state.set("shape", Value(std::vector<int64_t>{slot.out, slot.in}));
  std::vector<NamedTensor> out;
  Tensor codes = ops::cpu(tensors[0]);
  // Other storage dtypes show the same bytes under another name; a tail that does not fill an element is padded with zeros.
  const ScalarType storage = storage_dtype(options_.quant_storage);
  if (storage != kByte) {
    const int64_t element = storage == kFloat ? 4 : 2;
    const Tensor padded = ops::full({(codes.numel() + element - 1) / element, 1}, 0, storage);
    std::memcpy(padded.mutable_data_ptr(), codes.const_data_ptr(), bytes_of(codes));
    codes = padded;
  }
  out.push_back({weight, codes});
  out.push_back({weight + ".absmax", ops::cpu(tensors[1])});
  out.push_back({weight + ".quant_map", floats(code_values(codebook_))});
  if (options_.double_quant) {
    out.push_back({weight + ".nested_absmax", ops::cpu(tensors[2])});
    out.push_back({weight + ".nested_quant_map", floats(nested_code_values())});
    state.set("nested_blocksize", int64_t{kNestedBlock});
    state.set("nested_dtype", "float32");
    state.set("nested_offset", static_cast<double>(*ops::cpu(tensors[3]).const_data_ptr<float>()));
  }
  const std::string text = to_json(state);
  const Tensor bytes = ops::empty({static_cast<int64_t>(text.size())}, kByte);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  out.push_back({weight + ".quant_state.bitsandbytes__" + type_name(), bytes});
  return out;
}

Value Quantizer4Bit::quantization_config(const std::vector<std::string>& skipped_modules, ScalarType model_dtype) const {
  const std::string compute = options_.compute_dtype == "auto" ? python_name(model_dtype) : options_.compute_dtype;
  Value config = Value::table();
  config.set("quant_method", "bitsandbytes");
  config.set("_load_in_4bit", true), config.set("_load_in_8bit", false);
  config.set("load_in_4bit", true), config.set("load_in_8bit", false);
  config.set("bnb_4bit_compute_dtype", compute);
  config.set("bnb_4bit_quant_storage", options_.quant_storage);
  config.set("bnb_4bit_quant_type", type_name());
  config.set("bnb_4bit_use_double_quant", options_.double_quant);
  config.set("llm_int8_enable_fp32_cpu_offload", false);
  config.set("llm_int8_has_fp16_weight", false);
  config.set("llm_int8_skip_modules", skipped_modules.empty() ? Value() : Value(skipped_modules));
  config.set("llm_int8_threshold", 6.0);
  return config;
}

}  // namespace tenon::nf4
