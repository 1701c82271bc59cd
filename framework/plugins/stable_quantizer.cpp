#include "plugins/stable_quantizer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>

#include "plugins/stable_services.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

// What a table says, filled up with nulls to the size that this host knows.
template <class Table>
Table known_part(const Table& table) {
  Table copy{};
  std::memcpy(static_cast<void*>(&copy), &table, std::min<size_t>(table.size, sizeof copy));
  return copy;
}

[[noreturn]] void throw_error(const tenon_call& call, const char* what, int32_t code) {
  if (call.host_error) std::rethrow_exception(call.host_error);
  const bool is_known = code == TENON_ERROR_RECIPE || code == TENON_ERROR_DATA || code == TENON_ERROR_DEVICE || code == TENON_INTERRUPTED ||
                        code == TENON_ERROR_INTERNAL;
  throw Error(is_known ? static_cast<ErrorCode>(code) : ErrorCode::Plugin,
              call.error.empty() ? concat(what, ": it failed with code ", code, " and without a word") : call.error);
}

// False: the plugin leaves this call to the default.
bool succeeded(const tenon_call& call, const char* what, int32_t code) {
  if (code == TENON_OK && call.host_error) std::rethrow_exception(call.host_error);  // a value that could not be read
  if (code == TENON_OK) return true;
  if (code == TENON_USE_DEFAULT) return false;
  throw_error(call, what, code);
}

void required(const tenon_call& call, const char* what, int32_t code) {
  if (!succeeded(call, what, code)) fail(ErrorCode::Plugin, what, ": it asks for a default where there is none");
}

// The tensors of a slot as handles; few enough for the stack.
class Handles {
 public:
  explicit Handles(const Tensors& tensors) : size_(static_cast<int64_t>(tensors.size())) {
    if (tensors.size() > few_.size()) many_.resize(tensors.size());
    tenon_tensor* to = many_.empty() ? few_.data() : many_.data();
    for (size_t i = 0; i < tensors.size(); ++i) to[i] = lent(tensors[i]);
  }
  const tenon_tensor* data() const { return many_.empty() ? few_.data() : many_.data(); }
  int64_t size() const { return size_; }

 private:
  std::array<tenon_tensor, 6> few_;
  std::vector<tenon_tensor> many_;
  int64_t size_;
};

at::Tensor result(const char* what, tenon_tensor handle) {
  at::Tensor tensor = taken(handle);
  if (!tensor.defined()) fail(ErrorCode::Plugin, what, ": it returned no tensor");
  return tensor;
}

Tensors unnamed(std::vector<NamedTensor>&& tensors) {
  Tensors all;
  all.reserve(tensors.size());
  for (auto& t : tensors) all.push_back(std::move(t.tensor));
  return all;
}

struct StableObserver final : Observer {
  StableObserver(const std::string& id, const tenon_calibration_v1& functions, void* h) : plugin(id), table(functions), handle(h) {}
  StableObserver(const StableObserver&) = delete;
  StableObserver& operator=(const StableObserver&) = delete;
  ~StableObserver() override { table.destroy(handle); }
  void observe(const at::Tensor& x) override {
    tenon_call call(plugin);
    required(call, "observe", table.observe(handle, &call, lent(x)));
  }
  std::string plugin;
  tenon_calibration_v1 table;
  void* handle;
};

class StableQuantizer final : public Quantizer {
 public:
  StableQuantizer(std::string plugin, const tenon_quantizer_v1& table, void* self) : plugin_(std::move(plugin)), t_(table), self_(self) {}
  StableQuantizer(const StableQuantizer&) = delete;
  StableQuantizer& operator=(const StableQuantizer&) = delete;
  ~StableQuantizer() override { t_.destroy(self_); }

  std::string format() const override {
    tenon_call call(plugin_);
    required(call, "format", t_.format(self_, &call));
    if (call.texts.size() != 1) fail(ErrorCode::Plugin, "format: it gave ", call.texts.size(), " texts, expected one");
    return call.texts[0];
  }

  QuantizerFacts facts() const override {
    tenon_call call(plugin_);
    auto bit = [](auto number) { return uint64_t{1} << static_cast<int>(number); };
    tenon_facts_v1 f{.size = sizeof(tenon_facts_v1),
                     .needs_calibration = 0,
                     .bits_per_weight = 0,
                     .max_relative_error = 0,
                     .device_types = bit(at::kCPU),
                     .compute_dtypes = bit(at::kFloat) | bit(at::kBFloat16) | bit(at::kHalf),
                     .calibrates_by_stage = 0,
                     .zero = 0};
    required(call, "facts", t_.facts(self_, &call, &f));
    QuantizerFacts facts{.bits_per_weight = f.bits_per_weight,
                         .devices = {},
                         .compute_dtypes = {},
                         .needs_calibration = f.needs_calibration != 0,
                         .calibrates_by_stage = f.calibrates_by_stage != 0,
                         .max_relative_error = f.max_relative_error};
    for (int i = 0; i < 64; ++i) {
      if (f.device_types & bit(i) && i < at::COMPILE_TIME_MAX_DEVICE_TYPES)
        facts.devices.push_back(c10::DeviceTypeName(static_cast<at::DeviceType>(i), /*lower_case=*/true));
      if (f.compute_dtypes & bit(i) && i < static_cast<int>(at::ScalarType::NumOptions))
        facts.compute_dtypes.push_back(static_cast<at::ScalarType>(i));
    }
    return facts;
  }

  Support supports(const SlotSpec& slot) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    if (!t_.supports || !succeeded(call, "supports", t_.supports(self_, &call, &plain))) return Quantizer::supports(slot);
    return call.texts.empty() || call.texts[0].empty() ? Support{} : Support::no(call.texts[0]);
  }

  std::vector<TensorSpec> resident(const SlotSpec& slot) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    required(call, "resident", t_.resident(self_, &call, &plain));
    return std::move(call.specs);
  }

  Tensors quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer* calibration) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const auto* observer = dynamic_cast<const StableObserver*>(calibration);
    required(call, "quantize", t_.quantize(self_, &call, &plain, lent(weight), observer ? observer->handle : nullptr));
    return unnamed(std::move(call.tensors));
  }

  int64_t row_granule(const SlotSpec& slot) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    int64_t granule = 0;
    const bool streams = t_.row_granule && t_.begin && t_.quantize_rows && t_.finish;
    return streams && succeeded(call, "row_granule", t_.row_granule(self_, &call, &plain, &granule)) ? granule : 0;
  }

  Tensors begin(const SlotSpec& slot, at::Device device) const override {
    if (!t_.begin) return Quantizer::begin(slot, device);
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    required(call, "begin", t_.begin(self_, &call, &plain, static_cast<int32_t>(device.type()), device.index()));
    return unnamed(std::move(call.tensors));
  }

  void quantize_rows(const SlotSpec& slot, const at::Tensor& rows, int64_t first_row, Tensors& work) const override {
    if (!t_.quantize_rows) return Quantizer::quantize_rows(slot, rows, first_row, work);
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(work);
    required(call, "quantize_rows", t_.quantize_rows(self_, &call, &plain, lent(rows), first_row, handles.data(), handles.size()));
  }

  Tensors finish(const SlotSpec& slot, Tensors work) const override {
    if (!t_.finish) return Quantizer::finish(slot, std::move(work));
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(work);
    required(call, "finish", t_.finish(self_, &call, &plain, handles.data(), handles.size()));
    return unnamed(std::move(call.tensors));
  }

  at::Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype, int64_t first_row,
                        int64_t last_row) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(tensors);
    tenon_tensor out = nullptr;
    required(call, "dequantize",
             t_.dequantize(self_, &call, &plain, handles.data(), handles.size(), static_cast<int32_t>(dtype), first_row, last_row, &out));
    return result("dequantize", out);
  }

  at::Tensor linear(const SlotSpec& slot, const at::Tensor& x, const Tensors& tensors) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(tensors);
    tenon_tensor out = nullptr;
    if (!t_.linear || !succeeded(call, "linear", t_.linear(self_, &call, &plain, lent(x), handles.data(), handles.size(), &out)))
      return Quantizer::linear(slot, x, tensors);
    return result("linear", out);
  }

  std::vector<at::Tensor> linear_many(std::span<const Operand> weights, const at::Tensor& x) const override {
    if (!t_.linear_many) return Quantizer::linear_many(weights, x);
    tenon_call call(plugin_);
    std::vector<tenon_slot_v1> slots;
    std::vector<Handles> handles;
    std::vector<tenon_operand> operands;
    slots.reserve(weights.size()), handles.reserve(weights.size()), operands.reserve(weights.size());
    for (const Operand& w : weights) {
      slots.push_back(plain_slot(*w.slot));
      handles.emplace_back(*w.tensors);
      operands.push_back({&slots.back(), handles.back().data(), handles.back().size()});
    }
    std::vector<tenon_tensor> out(weights.size());
    const int32_t code = t_.linear_many(self_, &call, operands.data(), static_cast<int64_t>(operands.size()), lent(x), out.data());
    std::vector<at::Tensor> outputs;
    outputs.reserve(out.size());
    for (tenon_tensor handle : out) outputs.push_back(taken(handle));
    if (!succeeded(call, "linear_many", code)) return Quantizer::linear_many(weights, x);
    for (const at::Tensor& y : outputs)
      if (!y.defined()) fail(ErrorCode::Plugin, "linear_many: it returned too few tensors for ", weights.size(), " weights");
    return outputs;
  }

  at::Tensor grad_input(const SlotSpec& slot, const at::Tensor& dy, const Tensors& tensors) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(tensors);
    tenon_tensor out = nullptr;
    if (!t_.grad_input ||
        !succeeded(call, "grad_input", t_.grad_input(self_, &call, &plain, lent(dy), handles.data(), handles.size(), &out)))
      return Quantizer::grad_input(slot, dy, tensors);
    return result("grad_input", out);
  }

  at::Tensor rows(const SlotSpec& slot, const at::Tensor& ids, const Tensors& tensors, at::ScalarType dtype) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(tensors);
    tenon_tensor out = nullptr;
    if (!t_.rows || !succeeded(call, "rows",
                               t_.rows(self_, &call, &plain, lent(ids), handles.data(), handles.size(), static_cast<int32_t>(dtype), &out)))
      return Quantizer::rows(slot, ids, tensors, dtype);
    return result("rows", out);
  }

  at::Tensor grouped(const SlotSpec& slot, const at::Tensor& x, const at::Tensor& offsets, const Tensors& tensors) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(tensors);
    tenon_tensor out = nullptr;
    if (!t_.grouped ||
        !succeeded(call, "grouped", t_.grouped(self_, &call, &plain, lent(x), lent(offsets), handles.data(), handles.size(), &out)))
      return Quantizer::grouped(slot, x, offsets, tensors);
    return result("grouped", out);
  }

  std::unique_ptr<Observer> make_observer(const SlotSpec& slot) const override {
    const auto table = calibration();
    if (!table) return nullptr;
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    void* handle = nullptr;
    required(call, "make_observer", table->make_observer(self_, &call, &plain, &handle));
    return handle ? std::make_unique<StableObserver>(plugin_, *table, handle) : nullptr;
  }

  int64_t calibration_bytes(const SlotSpec& slot) const override {
    const auto table = calibration();
    if (!table || !table->bytes) return Quantizer::calibration_bytes(slot);
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    int64_t bytes = 0;
    required(call, "calibration_bytes", table->bytes(self_, &call, &plain, &bytes));
    if (bytes < 0) fail(ErrorCode::Plugin, "calibration_bytes: it gave ", bytes, ", expected 0 or more");
    return bytes;
  }

  std::optional<Value> recognise(const Value& quantization_config, const TensorSource& file) const override {
    tenon_call call(plugin_);
    tenon_file plain{.source = &file};
    if (!t_.recognise || !succeeded(call, "recognise", t_.recognise(self_, &call, call.arena().keep(quantization_config), &plain)))
      return Quantizer::recognise(quantization_config, file);
    return std::move(call.value);
  }

  std::vector<std::string> locate(const SlotSpec& slot, const TensorSource& file) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    tenon_file plain_file{.source = &file};
    if (!t_.locate || !succeeded(call, "locate", t_.locate(self_, &call, &plain, &plain_file))) return Quantizer::locate(slot, file);
    return std::move(call.texts);
  }

  Tensors unpack(const SlotSpec& slot, const TensorSource& file) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    tenon_file plain_file{.source = &file};
    if (!t_.unpack || !succeeded(call, "unpack", t_.unpack(self_, &call, &plain, &plain_file))) return Quantizer::unpack(slot, file);
    return unnamed(std::move(call.tensors));
  }

  std::vector<NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const override {
    tenon_call call(plugin_);
    const tenon_slot_v1 plain = plain_slot(slot);
    const Handles handles(tensors);
    if (!t_.pack || !succeeded(call, "pack", t_.pack(self_, &call, &plain, handles.data(), handles.size())))
      return Quantizer::pack(slot, tensors);
    return std::move(call.tensors);
  }

  Value quantization_config(const std::vector<std::string>& skipped_modules, at::ScalarType model_dtype) const override {
    tenon_call call(plugin_);
    std::vector<const char*> skipped;
    for (const auto& name : skipped_modules) skipped.push_back(name.c_str());
    if (!t_.quantization_config || !succeeded(call, "quantization_config",
                                              t_.quantization_config(self_, &call, skipped.data(), static_cast<int64_t>(skipped.size()),
                                                                     static_cast<int32_t>(model_dtype))))
      return Quantizer::quantization_config(skipped_modules, model_dtype);
    if (!call.value) fail(ErrorCode::Plugin, "quantization_config: it gave no table");
    return *call.value;
  }

 private:
  std::optional<tenon_calibration_v1> calibration() const {
    const auto* given =
        t_.extension ? static_cast<const tenon_calibration_v1*>(t_.extension(self_, "tenon.quantizer.calibration/1")) : nullptr;
    if (!given) return std::nullopt;
    const tenon_calibration_v1 table = known_part(*given);
    if (!table.make_observer || !table.observe || !table.destroy)
      fail(ErrorCode::Plugin, "make_observer: its calibration extension lacks a function");
    return table;
  }

  std::string plugin_;
  tenon_quantizer_v1 t_;
  void* self_;
};

// A list that the plugin's table holds: nothing in it may be missing.
template <class T>
void check_list(const T* items, int64_t count, const std::string& what) {
  if (count < 0 || (count > 0 && !items)) fail(ErrorCode::Plugin, "its table has ", count, " ", what, " and no list of them");
  if constexpr (std::is_pointer_v<T>)
    for (int64_t i = 0; i < count; ++i)
      if (!items[i]) fail(ErrorCode::Plugin, "number ", i, " of its ", count, " ", what, " is missing");
}

OptionRow option_row(const std::string& plugin, const tenon_option_v1* given) {
  const tenon_option_v1 o = known_part(*given);
  if (!o.name || !o.doc || !o.type) fail(ErrorCode::Plugin, "an option '", o.name ? o.name : "", "' has no name, text or type");
  check_list(o.choices, o.choice_count, concat("choices of option '", o.name, "'"));
  OptionRow row{
      .name = o.name, .doc = o.doc, .type = o.type, .default_value = stable::read_value(o.default_value), .constraint = {}, .set = nullptr};
  for (int64_t i = 0; i < o.choice_count; ++i) row.constraint.choices.push_back(stable::read_value(o.choices[i]));
  row.constraint.min = o.min, row.constraint.max = o.max;
  if (o.check)
    row.constraint.check = [plugin, given](const Value& value) -> std::string {
      tenon_call call(plugin);
      required(call, "check of an option", given->check(given, &call, call.arena().keep(value)));
      return call.texts.empty() ? "" : call.texts[0];
    };
  row.set = [](void*, const Value&) {};  // options go over as they are
  return row;
}

Provider<Quantizer> provider(const std::string& plugin, const tenon_quantizer_v1* given) {
  const tenon_quantizer_v1 t = known_part(*given);
  const std::string name = t.name ? t.name : "";
  if (t.size < offsetof(tenon_quantizer_v1, supports) || !t.name || !t.summary || !t.create || !t.destroy || !t.format || !t.facts ||
      !t.resident || !t.quantize || !t.dequantize)
    fail(ErrorCode::Plugin, "its table of quantizer '", name, "' lacks a required function (tenon/stable/abi.h says which are)");
  check_list(t.options, t.option_count, concat("options of quantizer '", name, "'"));
  check_list(t.retired, t.retired_count, concat("retired options of quantizer '", name, "'"));
  Provider<Quantizer> p{.name = name, .summary = t.summary, .options = {}, .make = nullptr};
  for (int64_t i = 0; i < t.option_count; ++i) p.options.rows.push_back(option_row(plugin, t.options[i]));
  for (int64_t i = 0; i < t.retired_count; ++i)
    p.options.retired.emplace_back(t.retired[i].key, stable::read_value(t.retired[i].value).as_string());
  p.make = [plugin, given, t](const Value& options) -> std::unique_ptr<Quantizer> {
    tenon_call call(plugin);
    const auto& entries = call.arena().lower_table(options.is_table() ? options.as_table() : Value::Table{});
    void* self = nullptr;
    required(call, "create", t.create(given, &call, entries.data(), static_cast<int64_t>(entries.size()), &self));
    return self ? std::make_unique<StableQuantizer>(plugin, t, self) : nullptr;
  };
  return p;
}

}  // namespace

void register_stable_plugin(const std::string& plugin_id, tenon_plugin_entry_v1_function entry, Registrar& registrar) {
  tenon_call call(plugin_id);
  const tenon_plugin_v1* given = entry(&stable_services(), &call);
  if (!given) throw_error(call, "register", TENON_ERROR_PLUGIN);
  const tenon_plugin_v1 plugin = known_part(*given);
  check_list(plugin.quantizers, plugin.quantizer_count, "quantizers");
  for (int64_t i = 0; i < plugin.quantizer_count; ++i) registrar.quantizers.push_back(provider(plugin_id, plugin.quantizers[i]));
}

}  // namespace tenon::host
