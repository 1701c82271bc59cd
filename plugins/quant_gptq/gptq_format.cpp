// Files: qweight, qzeros, scales and g_idx as GPTQModel, AutoGPTQ, transformers and vLLM know them, and their part of config.json.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <numeric>

#include "bits.h"
#include "gptq.h"
#include "tenon/device.h"

namespace tenon::gptq {

namespace {

// "model.layers.0.mlp.up_proj" as the file spells it: packed weights have one name of their own.
std::string file_base(const SlotSpec& slot, const TensorSource* file) {
  static const std::string suffix = ".weight";
  for (const Source& source : slot.sources) {
    if (source.pieces.size() != 1 || source.pieces[0].length >= 0) continue;
    const std::string& name = source.pieces[0].tensor;
    if (name.size() <= suffix.size() || name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) continue;
    const std::string base = name.substr(0, name.size() - suffix.size());
    if (!file || file->has(base + ".qweight")) return base;
  }
  return "";
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

at::Tensor stored_tensor(const TensorSource& file, const std::string& name, at::ScalarType dtype, const std::vector<int64_t>& shape) {
  if (!file.has(name)) fail(ErrorCode::Data, "tensor '", name, "' is missing: the packed weight cannot be read without it");
  const TensorSpec spec = file.spec(name);
  const bool right_dtype = dtype == at::kHalf ? at::isFloatingType(spec.dtype) : spec.dtype == dtype;
  if (!right_dtype || spec.shape != shape)
    fail(ErrorCode::Data, "tensor '", name, "' is ", c10::toString(spec.dtype), " ", shape_text(spec.shape), ", expected ",
         c10::toString(dtype), " ", shape_text(shape));
  return file.read(name).contiguous();
}

uint32_t* words(at::Tensor& t) { return reinterpret_cast<uint32_t*>(t.mutable_data_ptr<int32_t>()); }
const uint32_t* words(const at::Tensor& t) { return reinterpret_cast<const uint32_t*>(t.const_data_ptr<int32_t>()); }

// [groups, out] zero points of a file's qzeros, each row a stream of codes; `first_version`: stored less one.
at::Tensor read_zeros(const at::Tensor& qzeros, int64_t out, int bits, bool first_version) {
  at::Tensor plain = qzeros.clone();
  at::Tensor zeros = at::empty({qzeros.size(0), out}, at::kByte);
  for (int64_t g = 0; g < qzeros.size(0); ++g) {
    uint32_t* row = words(plain) + g * plain.size(1);
    if (first_version) add_one(row, out, bits);
    unpack_codes(row, out, bits, zeros.mutable_data_ptr<uint8_t>() + g * out);
  }
  return zeros;
}

// Symmetric weights have one zero point, so that the data says which version they are, whatever config.json calls them.
at::Tensor symmetric_zeros(const at::Tensor& qzeros, int64_t out, int bits, const std::string& name) {
  const int64_t middle = int64_t{1} << (bits - 1);
  const at::Tensor stored = read_zeros(qzeros, out, bits, false);
  const int64_t least = stored.min().item<int64_t>(), most = stored.max().item<int64_t>();
  if (least != most || (least != middle && least != middle - 1))
    fail(ErrorCode::Data, "tensor '", name, "' holds zero points from ", least, " to ", most,
         ", but config.json says sym = true: expected ", middle - 1, " everywhere (format gptq) or ", middle,
         " (format gptq_v2); the file is damaged, or sym is false");
  return stored.fill_(middle);
}

// What keeps an option of a checkpoint from being read, or "".
std::string problem_with(const OptionRow& row, const Value& value) {
  try {
    Options options;
    row.set(&options, value);
  } catch (const Error& error) {
    return error.what();
  }
  const auto& choices = row.constraint.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), value) == choices.end())
    return value.is_string() ? concat("\"", value.as_string(), "\" is none of its choices")
                             : concat(value.as_int(), " is none of its choices");
  return row.constraint.check ? row.constraint.check(value) : "";
}

// A checkpoint's `dynamic` says more than what reading needs.
Value readable_overrides(const Value& dynamic) {
  if (!dynamic.is_table()) fail(ErrorCode::Data, "quantization_config: dynamic is ", dynamic.type_name(), ", expected a table");
  Value result = Value::table();
  for (const auto& [pattern, values] : dynamic.as_table()) {
    Value kept = Value::table();
    if (values.is_table())
      for (const char* key : {"bits", "group_size", "sym"})
        if (const Value* value = values.find_set(key)) kept.set(key, *value);
    result.set(pattern, kept);
  }
  return result;
}

bool is_plain(const at::Tensor& g_idx, int64_t group) {
  const int32_t* g = g_idx.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < g_idx.numel(); ++i)
    if (g[i] != i / group) return false;
  return true;
}

// Places of the columns with the groups together; within a group as they stand.
at::Tensor order_of(const at::Tensor& g_idx, int64_t group, const std::string& name) {
  const int64_t columns = g_idx.numel(), groups = (columns + group - 1) / group;
  const int32_t* g = g_idx.const_data_ptr<int32_t>();
  std::vector<int64_t> members(static_cast<size_t>(groups));
  for (int64_t i = 0; i < columns; ++i) {
    if (g[i] < 0 || g[i] >= groups)
      fail(ErrorCode::Data, "tensor '", name, "' puts column ", i, " into group ", g[i], ", expected 0 to ", groups - 1,
           ": the file is damaged");
    ++members[static_cast<size_t>(g[i])];
  }
  for (int64_t k = 0; k < groups; ++k)
    if (const int64_t expected = std::min(group, columns - k * group); members[static_cast<size_t>(k)] != expected)
      fail(ErrorCode::Data, "tensor '", name, "' puts ", members[static_cast<size_t>(k)], " columns into group ", k, ", expected ",
           expected, ": the file is damaged, or its group_size is another");
  at::Tensor order = at::empty({columns}, at::kInt);
  int32_t* place = order.mutable_data_ptr<int32_t>();
  std::iota(place, place + columns, 0);
  std::stable_sort(place, place + columns, [&](int32_t a, int32_t b) { return g[a] < g[b]; });
  return order;
}

// Codes of each row, taken apart, in another order of the columns.
at::Tensor reordered(const at::Tensor& codes, int64_t columns, int bits, const std::function<int64_t(int64_t)>& source) {
  at::Tensor result = at::empty(codes.sizes(), codes.options());
  parallel_for(codes.size(0), 16, [&](int64_t from, int64_t to) {
    std::vector<uint8_t> before(static_cast<size_t>(columns)), after(before.size());
    for (int64_t row = from; row < to; ++row) {
      unpack_codes(words(codes) + row * codes.size(1), columns, bits, before.data());
      for (int64_t c = 0; c < columns; ++c) after[static_cast<size_t>(c)] = before[static_cast<size_t>(source(c))];
      pack_codes(after.data(), columns, bits, words(result) + row * codes.size(1));
    }
  });
  return result;
}

template <class T>
void copy_key(const Value& from, const char* key, Value& to, T fallback) {
  const Value* value = from.find_set(key);
  to.set(key, value ? *value : Value(fallback));
}

}  // namespace

std::optional<Value> Gptq::recognise(const Value& config, const TensorSource& file) const {
  const std::string method = config.string_or("quant_method", config.string_or("method", "gptq"));
  if (method != "gptq" || !config.find_set("bits")) return std::nullopt;
  const std::string format = config.string_or("checkpoint_format", config.string_or("format", "gptq"));
  if (format != "gptq" && format != "gptq_v2")
    fail(ErrorCode::Data, "quantization_config: checkpoint_format is \"", format,
         "\", expected \"gptq\" or \"gptq_v2\"; GPTQModel converts others");
  if (const std::string pack = config.string_or("pack_dtype", "int32"); pack != "int32")
    fail(ErrorCode::Data, "quantization_config: pack_dtype is \"", pack, "\", expected \"int32\"");
  Value options = Value::table();
  options.set("bits", config.at("bits").as_int());
  copy_key(config, "group_size", options, 128);
  copy_key(config, "desc_act", options, false);
  copy_key(config, "sym", options, true);
  options.set("format", format);
  if (const Value* dynamic = config.find_set("dynamic")) options.set("dynamic", readable_overrides(*dynamic));
  // What is said for the making only.
  for (const char* key : {"damp_percent", "true_sequential"})
    if (const Value* value = config.find_set(key)) options.set(key, *value);
  for (const OptionRow& row : option_table().rows)
    if (const Value* value = options.find(row.name))
      if (const std::string problem = problem_with(row, *value); !problem.empty())
        fail(ErrorCode::Data, "quantization_config: ", row.name, ": ", problem, ": `host plugins describe gptq` lists what is read");
  // Where the data orders columns, it counts: desc_act with static groups has plain ones, and some files forget to say desc_act.
  bool reordered = false;
  static const std::string suffix = ".g_idx";
  for (const std::string& name : file.names())
    if (!reordered && name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0) {
      const at::Tensor g_idx = file.read(name).to(at::kInt).contiguous();
      reordered = !std::is_sorted(g_idx.const_data_ptr<int32_t>(), g_idx.const_data_ptr<int32_t>() + g_idx.numel());
    }
  options.set("desc_act", reordered);
  options.set("static_groups", false);
  return options;
}

std::vector<std::string> Gptq::locate(const SlotSpec& slot, const TensorSource& file) const {
  const std::string base = file_base(slot, &file);
  if (base.empty()) return {};
  std::vector<std::string> names{base + ".qweight", base + ".qzeros", base + ".scales"};
  if (file.has(base + ".g_idx")) names.push_back(base + ".g_idx");
  if (!slot.bias && file.has(base + ".bias")) names.push_back(base + ".bias");  // older writers gave every module one, of zeros
  return names;
}

Tensors Gptq::unpack(const SlotSpec& slot, const TensorSource& file) const {
  const Settings s = overrides_.of(slot);
  const std::string base = file_base(slot, &file);
  if (const Support support = supports(slot); !support.yes)
    fail(ErrorCode::Data, "'", base, "' is packed, but cannot be read: ", support.reason,
         "; make the checkpoint with this module left dense");
  const int64_t groups = s.groups(slot.in);
  const at::Tensor qweight = stored_tensor(file, base + ".qweight", at::kInt, {slot.in * s.bits / 32, slot.out});
  const at::Tensor qzeros = stored_tensor(file, base + ".qzeros", at::kInt, {groups, slot.out * s.bits / 32});
  const at::Tensor scales = stored_tensor(file, base + ".scales", at::kHalf, {groups, slot.out});
  if (!at::isfinite(scales).all().item<bool>())
    fail(ErrorCode::Data, "tensor '", base, ".scales' holds values that are not finite: the file is damaged");
  const at::Tensor zeros =
      s.sym ? symmetric_zeros(qzeros, slot.out, s.bits, base + ".qzeros") : read_zeros(qzeros, slot.out, s.bits, options_.format == "gptq");
  const at::Tensor half = scales.to(at::kHalf);
  if (!at::isfinite(half).all().item<bool>())
    fail(ErrorCode::Data, "tensor '", base, ".scales' holds values over what float16 can: the file is damaged");
  if (!slot.bias && file.has(base + ".bias") && file.read(base + ".bias").to(at::kFloat).abs().max().item<float>() != 0)
    fail(ErrorCode::Data, "tensor '", base, ".bias' is not zero, but this architecture has no bias there");
  Tensors result{qweight.t().contiguous(), half.t().contiguous(), zeros.t().contiguous()};

  at::Tensor order;
  if (file.has(base + ".g_idx")) {
    const at::Tensor g_idx = stored_tensor(file, base + ".g_idx", at::kInt, {slot.in});
    order = order_of(g_idx, s.group, base + ".g_idx");
    if (!s.is_reordered() && !is_plain(g_idx, s.group))
      fail(ErrorCode::Data, "tensor '", base, ".g_idx' orders columns by activation, but the quantization config says desc_act = false");
  } else {
    order = at::arange(slot.in, at::kInt);
  }
  if (s.is_reordered()) {
    const int32_t* place = order.const_data_ptr<int32_t>();
    result[kCodes] = reordered(result[kCodes], slot.in, s.bits, [place](int64_t c) { return place[c]; });
    result.push_back(order);
  }
  return result;
}

std::vector<NamedTensor> Gptq::pack(const SlotSpec& slot, const Tensors& tensors) const {
  const Settings s = overrides_.of(slot);
  const std::string base = file_base(slot, nullptr);
  if (base.empty()) fail(ErrorCode::Data, "'", slot.path, "' has no file name of its own in this layout, packed weights need one");
  at::Tensor codes = tensors[kCodes].cpu(), g_idx = at::empty({slot.in}, at::kInt);
  int32_t* g = g_idx.mutable_data_ptr<int32_t>();
  if (s.is_reordered()) {
    const at::Tensor order = tensors[kOrder].cpu();
    const int32_t* place = order.const_data_ptr<int32_t>();
    std::vector<int64_t> back(static_cast<size_t>(slot.in));
    for (int64_t c = 0; c < slot.in; ++c) back[static_cast<size_t>(place[c])] = c, g[place[c]] = static_cast<int32_t>(c / s.group);
    codes = reordered(codes, slot.in, s.bits, [&back](int64_t c) { return back[static_cast<size_t>(c)]; });
  } else {
    for (int64_t c = 0; c < slot.in; ++c) g[c] = static_cast<int32_t>(c / s.group);
  }
  const at::Tensor zeros = tensors[kZeros].cpu().t().contiguous();
  at::Tensor qzeros = at::empty({zeros.size(0), slot.out * s.bits / 32}, at::kInt);
  for (int64_t k = 0; k < zeros.size(0); ++k) {
    uint32_t* row = words(qzeros) + k * qzeros.size(1);
    pack_codes(zeros.const_data_ptr<uint8_t>() + k * slot.out, slot.out, s.bits, row);
    if (options_.format == "gptq") subtract_one(row, slot.out, s.bits);
  }
  return {{base + ".qweight", codes.t().contiguous()},
          {base + ".qzeros", qzeros},
          {base + ".scales", tensors[kScales].cpu().t().contiguous()},
          {base + ".g_idx", g_idx}};
}

Value Gptq::quantization_config(const std::vector<std::string>& skipped_modules, at::ScalarType) const {
  Value config = Value::table();
  config.set("bits", options_.bits);
  // Readers take every linear module of the blocks for packed: what stayed dense is named.
  Value dynamic = options_.dynamic.is_table() ? options_.dynamic : Value::table();
  for (const std::string& path : skipped_modules) {
    if (overrides_.excludes(path)) continue;
    std::string pattern = "-:";
    for (const char c : path) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
    if (path.find(".layers.") != std::string::npos) dynamic.set(pattern + "$", Value::table());
  }
  if (!dynamic.as_table().empty()) config.set("dynamic", dynamic);
  config.set("group_size", options_.group_size);
  config.set("desc_act", options_.desc_act);
  config.set("static_groups", options_.static_groups);
  config.set("sym", options_.sym);
  config.set("lm_head", false);
  config.set("true_sequential", options_.true_sequential);
  config.set("damp_percent", options_.damp_percent);
  config.set("quant_method", "gptq");
  config.set("checkpoint_format", options_.format);
  config.set("format", options_.format);
  config.set("pack_dtype", "int32");
  Value meta = Value::table();
  meta.set("quantizer", Value::List{Value("tenon:0.1.0")});
  meta.set("act_group_aware", options_.act_group_aware && !options_.desc_act && options_.group_size > 0);
  meta.set("damp_auto_increment", options_.damp_auto_increment);
  config.set("meta", meta);
  return config;
}

}  // namespace tenon::gptq
