// Files: qweight, qzeros, scales and g_idx as GPTQModel, AutoGPTQ, transformers and vLLM know them, and their part of config.json.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "bits.h"
#include "gptq.h"
#include "tenon/device.h"

namespace tenon::gptq {

namespace {

// The modules of a slot as this file names them; none: it has none of them packed.
std::vector<std::string> stored_modules(const SlotSpec& slot, const TensorSource& file) {
  for (auto& modules : file_modules(slot))
    if (std::any_of(modules.begin(), modules.end(), [&](const auto& name) { return file.has(name + ".qweight"); }))
      return std::move(modules);
  return {};
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

at::Tensor stored_tensor(const TensorSource& file, const std::string& name, at::ScalarType dtype, const std::vector<int64_t>& shape,
                         const std::string& why) {
  if (!file.has(name)) fail(ErrorCode::Data, "tensor '", name, "' is missing: the packed weight cannot be read without it");
  const TensorSpec spec = file.spec(name);
  const bool right_dtype = dtype == at::kHalf ? at::isFloatingType(spec.dtype) : spec.dtype == dtype;
  if (!right_dtype || spec.shape != shape)
    fail(ErrorCode::Data, "tensor '", name, "' is ", c10::toString(spec.dtype), " ", shape_text(spec.shape), ", expected ",
         c10::toString(dtype), " ", shape_text(shape), why);
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
  if (!dynamic.is_table()) fail(ErrorCode::Data, "dynamic is ", dynamic.type_name(), ", expected a table");
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
  at::Tensor result = at::zeros(codes.sizes(), codes.options());
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

[[noreturn]] void fail_without_order(const std::string& module) {
  fail(ErrorCode::Data, "tensor '", module,
       ".g_idx' is missing: where columns are ordered by activation nothing else says which of them share a scale");
}

// What a quantization_config says about reading, as options of the quantizer.
Value readable_options(const Value& config) {
  const std::string format = config.string_or("checkpoint_format", config.string_or("format", "gptq"));
  if (format != "gptq" && format != "gptq_v2")
    fail(ErrorCode::Data, "checkpoint_format is \"", format, "\", expected \"gptq\" or \"gptq_v2\"; GPTQModel converts others");
  if (const std::string pack = config.string_or("pack_dtype", "int32"); pack != "int32")
    fail(ErrorCode::Data, "pack_dtype is \"", pack, "\", expected \"int32\"");
  if (config.bool_or("is_marlin_format", false))
    fail(ErrorCode::Data, "is_marlin_format: weights in Marlin's order are not read; GPTQModel converts them");
  Value options = Value::table();
  options.set("bits", config.at("bits"));
  copy_key(config, "group_size", options, 128);
  copy_key(config, "desc_act", options, false);
  copy_key(config, "sym", options, true);
  options.set("format", format);
  if (const Value* dynamic = config.find_set("dynamic")) options.set("dynamic", readable_overrides(*dynamic));
  for (const OptionRow& row : option_table().rows) {
    if (const Value* value = options.find(row.name))
      if (const std::string problem = problem_with(row, *value); !problem.empty())
        fail(ErrorCode::Data, row.name, ": ", problem, ": `host plugins describe gptq` lists what is read");
    // Said for the making only: kept for the next file, where it makes sense here.
    if (row.name == "damp_percent" || row.name == "true_sequential")
      if (const Value* value = config.find_set(row.name); value && problem_with(row, *value).empty()) options.set(row.name, *value);
  }
  return options;
}

}  // namespace

std::optional<Value> Gptq::recognise(const Value& config, const TensorSource& file) const {
  Value options;
  bool needs_order = false;
  const bool is_ours = with_context("quantization_config", [&] {
    if (config.string_or("quant_method", config.string_or("method", "gptq")) != "gptq" || !config.find_set("bits")) return false;
    options = readable_options(config);
    needs_order = options.at("desc_act").as_bool() && !config.bool_or("static_groups", false);
    return true;
  });
  if (!is_ours) return std::nullopt;
  // Where the data orders columns, it counts: desc_act with static groups has plain ones, and some files forget to say desc_act.
  bool reordered = false;
  for (const std::string& name : file.names()) {
    if (needs_order && name.ends_with(".qweight")) {
      const std::string module = name.substr(0, name.size() - std::string_view(".qweight").size());
      if (!file.has(module + ".g_idx")) fail_without_order(module);
    } else if (!reordered && name.ends_with(".g_idx")) {
      const at::Tensor g_idx = file.read(name).to(at::kInt).contiguous();
      reordered = !std::is_sorted(g_idx.const_data_ptr<int32_t>(), g_idx.const_data_ptr<int32_t>() + g_idx.numel());
    }
  }
  options.set("desc_act", reordered);
  options.set("static_groups", false);
  return options;
}

std::vector<std::string> Gptq::locate(const SlotSpec& slot, const TensorSource& file) const {
  std::vector<std::string> names;
  for (const std::string& module : stored_modules(slot, file)) {
    for (const char* end : {".qweight", ".qzeros", ".scales"}) names.push_back(module + end);
    if (file.has(module + ".g_idx")) names.push_back(module + ".g_idx");
    if (!slot.bias && file.has(module + ".bias")) names.push_back(module + ".bias");  // older writers gave every module one, of zeros
  }
  return names;
}

Tensors Gptq::unpack(const SlotSpec& slot, const TensorSource& file) const {
  const std::vector<std::string> modules = stored_modules(slot, file);
  if (modules.empty()) fail(ErrorCode::Data, "'", slot.path, "' is not packed in this file");
  if (slot.kind == SlotKind::Embedding)
    fail(ErrorCode::Data, "'", modules.front(),
         "' is a packed embedding, which is not read: make the checkpoint with this module left dense");
  const Layout layout = layout_of(slot);
  const bool experts = slot.kind == SlotKind::Experts;
  const int64_t each = experts ? modules_per_expert(slot) : 1;
  if (static_cast<int64_t>(modules.size()) != slot.count * each || slot.out % each != 0)
    fail(ErrorCode::Data, "'", slot.path, "' is packed as ", modules.size(), " modules, expected ", each, " for each of ", slot.count);
  std::vector<Tensors> parts(4);
  for (const std::string& module : modules) {
    if (overrides_.excludes(slot) || overrides_.excludes(module))
      fail(ErrorCode::Data, "'", module, "' is packed, but dynamic in the quantization config leaves it dense");
    if (experts && !overrides_.of(slot, module).reads_as(layout.settings))
      fail(ErrorCode::Data, "dynamic in the quantization config gives '", module, "' other bits, group_size or sym than '", modules.front(),
           "': experts of one layer are read with one setting");
    const Tensors read = read_module(slot, layout, module, file);
    for (size_t i = 0; i < read.size(); ++i) parts[i].push_back(read[i]);
  }
  Tensors result;
  const std::vector<TensorSpec> specs = resident(slot);
  for (size_t i = 0; i < specs.size(); ++i) result.push_back((parts[i].size() == 1 ? parts[i][0] : at::cat(parts[i])).view(specs[i].shape));
  return result;
}

// As `resident` says, but of this module alone.
Tensors Gptq::read_module(const SlotSpec& slot, const Layout& layout, const std::string& name, const TensorSource& file) const {
  const Settings& s = layout.settings;
  const int64_t out = slot.kind == SlotKind::Experts ? slot.out / modules_per_expert(slot) : slot.out, groups = s.groups(slot.in);
  const std::string why = concat(" for bits = ", s.bits, " and group_size = ", s.group, " of the quantization config");
  const at::Tensor qweight = stored_tensor(file, name + ".qweight", at::kInt, {words_for(slot.in, s.bits), out}, why);
  const at::Tensor qzeros = stored_tensor(file, name + ".qzeros", at::kInt, {groups, words_for(out, s.bits)}, why);
  const at::Tensor scales = stored_tensor(file, name + ".scales", at::kHalf, {groups, out}, why);
  if (!at::isfinite(scales).all().item<bool>())
    fail(ErrorCode::Data, "tensor '", name, ".scales' holds values that are not finite: the file is damaged");
  const at::Tensor zeros =
      s.sym ? symmetric_zeros(qzeros, out, s.bits, name + ".qzeros") : read_zeros(qzeros, out, s.bits, options_.format == "gptq");
  const at::Tensor half = scales.to(at::kHalf);
  if (!at::isfinite(half).all().item<bool>())
    fail(ErrorCode::Data, "tensor '", name, ".scales' holds values over what float16 can: the file is damaged");
  if (!slot.bias && file.has(name + ".bias") && file.read(name + ".bias").to(at::kFloat).abs().max().item<float>() != 0)
    fail(ErrorCode::Data, "tensor '", name, ".bias' is not zero, but this architecture has no bias there");
  const auto turned = [](const at::Tensor& t, int64_t columns) {
    return at::constant_pad_nd(t.t(), {0, columns - t.size(0)}).contiguous();
  };
  Tensors result{turned(qweight, layout.words), turned(half, layout.groups), turned(zeros, layout.groups)};

  at::Tensor order = at::arange(layout.columns, at::kInt);
  if (file.has(name + ".g_idx")) {
    const at::Tensor g_idx = stored_tensor(file, name + ".g_idx", at::kInt, {slot.in}, "");
    order.narrow(0, 0, slot.in).copy_(order_of(g_idx, s.group, name + ".g_idx"));
    if (!s.is_reordered() && !is_plain(g_idx, s.group))
      fail(ErrorCode::Data, "tensor '", name, ".g_idx' orders columns by activation, but the quantization config says desc_act = false");
  } else if (s.is_reordered()) {
    fail_without_order(name);
  }
  if (s.is_reordered()) {
    const int32_t* place = order.const_data_ptr<int32_t>();
    result[kCodes] = reordered(result[kCodes], slot.in, s.bits, [place](int64_t c) { return place[c]; });
    result.push_back(order);
  }
  return result;
}

std::vector<NamedTensor> Gptq::pack(const SlotSpec& slot, const Tensors& tensors) const {
  const Layout layout = layout_of(slot);
  const Settings& s = layout.settings;
  const std::vector<std::vector<std::string>> layouts = file_modules(slot);
  if (layouts.empty()) fail(ErrorCode::Data, "'", slot.path, "' has no file name of its own in this layout, packed weights need one");
  const std::vector<std::string>& modules = layouts.front();
  const auto count = static_cast<int64_t>(modules.size()), out = slot.count * slot.out / count, groups = s.groups(slot.in);
  std::vector<NamedTensor> packed;
  for (int64_t m = 0; m < count; ++m) {
    const auto rows_of = [&](int which) {
      const at::Tensor t = tensors[static_cast<size_t>(which)];
      return t.view({-1, t.size(-1)}).narrow(0, m * out, out).cpu();
    };
    at::Tensor codes = rows_of(kCodes).contiguous(), g_idx = at::empty({slot.in}, at::kInt);
    int32_t* g = g_idx.mutable_data_ptr<int32_t>();
    if (s.is_reordered()) {
      const at::Tensor order = tensors[kOrder].view({-1, layout.columns}).select(0, m).cpu();
      const int32_t* place = order.const_data_ptr<int32_t>();
      std::vector<int64_t> back(static_cast<size_t>(slot.in));
      for (int64_t c = 0; c < slot.in; ++c) back[static_cast<size_t>(place[c])] = c, g[place[c]] = static_cast<int32_t>(c / s.group);
      codes = reordered(codes, slot.in, s.bits, [&back](int64_t c) { return back[static_cast<size_t>(c)]; });
    } else {
      for (int64_t c = 0; c < slot.in; ++c) g[c] = static_cast<int32_t>(c / s.group);
    }
    const at::Tensor zeros = rows_of(kZeros).narrow(1, 0, groups).t().contiguous();
    at::Tensor qzeros = at::empty({groups, words_for(out, s.bits)}, at::kInt);
    for (int64_t k = 0; k < groups; ++k) {
      uint32_t* row = words(qzeros) + k * qzeros.size(1);
      pack_codes(zeros.const_data_ptr<uint8_t>() + k * out, out, s.bits, row);
      if (options_.format == "gptq") subtract_one(row, out, s.bits);
    }
    const std::string& name = modules[static_cast<size_t>(m)];
    packed.push_back({name + ".qweight", codes.narrow(1, 0, words_for(slot.in, s.bits)).t().contiguous()});
    packed.push_back({name + ".qzeros", qzeros});
    packed.push_back({name + ".scales", rows_of(kScales).narrow(1, 0, groups).t().contiguous()});
    packed.push_back({name + ".g_idx", g_idx});
  }
  return packed;
}

namespace {

// A regular expression for the names that a module of the blocks has in files.
std::string pattern_of(const std::string& path) {
  constexpr std::string_view kLayers = ".layers.";
  const bool is_expert = path.find(".experts.") != std::string::npos;
  // Experts are modules of their own there, one by one, and what they lie in has another name in each release.
  const std::string known = is_expert ? path.substr(0, path.find('.', path.find(kLayers) + kLayers.size())) : path;
  std::string pattern;
  for (const char c : known) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return pattern + (is_expert ? "\\..*experts\\." : "$");
}

}  // namespace

Value Gptq::quantization_config(const std::vector<std::string>& skipped_modules, at::ScalarType) const {
  Value config = Value::table();
  config.set("bits", options_.bits);
  // Readers take every linear module of the blocks for packed: what stayed dense is named, before what a recipe's wider pattern says.
  Value dynamic = Value::table();
  bool packs_head = true;
  for (const std::string& path : skipped_modules) {
    packs_head = packs_head && !path.ends_with("lm_head");
    if (overrides_.excludes(path) || path.find(".layers.") == std::string::npos) continue;
    dynamic.set("-:" + pattern_of(path), Value::table());
  }
  if (options_.dynamic.is_table())
    for (const auto& [pattern, values] : options_.dynamic.as_table()) dynamic.set(pattern, values);
  if (!dynamic.as_table().empty()) config.set("dynamic", dynamic);
  config.set("group_size", options_.group_size);
  config.set("desc_act", options_.desc_act);
  config.set("static_groups", options_.static_groups);
  config.set("sym", options_.sym);
  config.set("lm_head", packs_head);
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
