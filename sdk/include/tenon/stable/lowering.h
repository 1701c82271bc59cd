#pragma once
// From a C++ quantizer to the table of the C border. Authors have no business here; tenon/stable/plugin.h uses it.
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tenon/options.h"
#include "tenon/stable/quantizer.h"

#pragma GCC visibility push(hidden)
namespace tenon::stable::detail {

// ---- in: what the host lends ----

inline Tensor borrowed(tenon_tensor handle) {
  tenon_tensor own = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(handle, &own));
  return Tensor(own);
}
inline Tensors borrowed(const tenon_tensor* handles, int64_t count) {
  Tensors all;
  all.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) all.push_back(borrowed(handles[i]));
  return all;
}

// ---- out: what the host takes over ----

inline tenon_tensor released(const Tensor& tensor) {
  tenon_tensor own = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor.get(), &own));
  return own;
}
inline void put(tenon_call* call, const std::string& text) { services.put_text(call, text.data(), static_cast<int64_t>(text.size())); }
inline void put(tenon_call* call, const Value& value) {
  ValueArena arena;
  const tenon_value plain = arena.lower(value);
  services.put_value(call, &plain);
}
inline void put(tenon_call* call, const Tensors& tensors) {
  for (const Tensor& t : tensors) services.put_tensor(call, nullptr, released(t));
}
inline void put(tenon_call* call, const std::vector<NamedTensor>& tensors) {
  for (const NamedTensor& t : tensors) services.put_tensor(call, t.name.c_str(), released(t.tensor));
}
inline void put(tenon_call* call, const std::vector<TensorSpec>& specs) {
  for (const TensorSpec& s : specs) {
    const tenon_tensor_spec plain{s.name.c_str(), s.shape.data(), static_cast<int64_t>(s.shape.size()), static_cast<int32_t>(s.dtype), 0};
    services.put_spec(call, &plain);
  }
}

// ---- the functions of the table, for any quantizer ----

inline const Quantizer& of(void* self) { return *static_cast<const Quantizer*>(self); }

struct Functions {
  static void destroy(void* self) { delete static_cast<Quantizer*>(self); }
  static int32_t format(void* self, tenon_call* call) {
    return guarded(call, [&] { put(call, of(self).format()); });
  }
  static int32_t facts(void* self, tenon_call* call, tenon_facts_v1* out) {
    return guarded(call, [&] {
      const QuantizerFacts f = of(self).facts();
      out->needs_calibration = f.needs_calibration ? 1 : 0;
      out->calibrates_by_stage = f.calibrates_by_stage ? 1 : 0;
      out->bits_per_weight = f.bits_per_weight;
      out->max_relative_error = f.max_relative_error;
      out->device_types = out->compute_dtypes = 0;
      for (const DeviceType d : f.devices) out->device_types |= uint64_t{1} << static_cast<int>(d);
      for (const ScalarType t : f.compute_dtypes) out->compute_dtypes |= uint64_t{1} << static_cast<int>(t);
    });
  }
  static int32_t resident(void* self, tenon_call* call, const tenon_slot_v1* slot) {
    return guarded(call, [&] { put(call, of(self).resident(SlotSpec(*slot))); });
  }
  static int32_t quantize(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor weight, void* observer) {
    return guarded(call, [&] { put(call, of(self).quantize(SlotSpec(*slot), borrowed(weight), static_cast<const Observer*>(observer))); });
  }
  static int32_t dequantize(void* self, tenon_call* call, const tenon_slot_v1* slot, const tenon_tensor* tensors, int64_t count,
                            int32_t dtype, int64_t first_row, int64_t last_row, tenon_tensor* out) {
    return guarded(call, [&] {
      *out = released(of(self).dequantize(SlotSpec(*slot), borrowed(tensors, count), static_cast<ScalarType>(dtype), first_row, last_row));
    });
  }
  static int32_t supports(void* self, tenon_call* call, const tenon_slot_v1* slot) {
    return guarded(call, [&] {
      const Support support = of(self).supports(SlotSpec(*slot));
      put(call, support.yes ? std::string() : support.reason.empty() ? std::string("no reason given") : support.reason);
    });
  }
  static int32_t row_granule(void* self, tenon_call* call, const tenon_slot_v1* slot, int64_t* out) {
    return guarded(call, [&] { *out = of(self).row_granule(SlotSpec(*slot)); });
  }
  static int32_t begin(void* self, tenon_call* call, const tenon_slot_v1* slot, int32_t device_type, int32_t device_index) {
    return guarded(call, [&] { put(call, of(self).begin(SlotSpec(*slot), Device(static_cast<DeviceType>(device_type), device_index))); });
  }
  static int32_t quantize_rows(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor rows, int64_t first_row,
                               const tenon_tensor* work, int64_t count) {
    return guarded(call, [&] {
      Tensors tensors = borrowed(work, count);
      of(self).quantize_rows(SlotSpec(*slot), borrowed(rows), first_row, tensors);
    });
  }
  static int32_t finish(void* self, tenon_call* call, const tenon_slot_v1* slot, const tenon_tensor* work, int64_t count) {
    return guarded(call, [&] { put(call, of(self).finish(SlotSpec(*slot), borrowed(work, count))); });
  }
  static int32_t linear(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor x, const tenon_tensor* tensors, int64_t count,
                        tenon_tensor* out) {
    return guarded(call, [&] { *out = released(of(self).linear(SlotSpec(*slot), borrowed(x), borrowed(tensors, count))); });
  }
  static int32_t linear_many(void* self, tenon_call* call, const tenon_operand* operands, int64_t operand_count, tenon_tensor x,
                             tenon_tensor* out) {
    return guarded(call, [&] {
      const auto n = static_cast<size_t>(operand_count);
      std::vector<SlotSpec> slots;
      std::vector<Tensors> tensors;
      std::vector<Quantizer::Operand> all;
      slots.reserve(n), tensors.reserve(n), all.reserve(n);
      for (size_t i = 0; i < n; ++i) {
        slots.emplace_back(*operands[i].slot);
        tensors.push_back(borrowed(operands[i].tensors, operands[i].tensor_count));
        all.push_back({&slots[i], &tensors[i]});
      }
      const Tensors outputs = of(self).linear_many(all, borrowed(x));
      if (outputs.size() != n) fail(ErrorCode::Plugin, "linear_many of ", n, " weights returned ", outputs.size(), " tensors");
      for (size_t i = 0; i < n; ++i) out[i] = released(outputs[i]);
    });
  }
  static int32_t grad_input(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor dy, const tenon_tensor* tensors,
                            int64_t count, tenon_tensor* out) {
    return guarded(call, [&] { *out = released(of(self).grad_input(SlotSpec(*slot), borrowed(dy), borrowed(tensors, count))); });
  }
  static int32_t rows(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor ids, const tenon_tensor* tensors, int64_t count,
                      int32_t dtype, tenon_tensor* out) {
    return guarded(call, [&] {
      *out = released(of(self).rows(SlotSpec(*slot), borrowed(ids), borrowed(tensors, count), static_cast<ScalarType>(dtype)));
    });
  }
  static int32_t grouped(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor x, tenon_tensor offsets,
                         const tenon_tensor* tensors, int64_t count, tenon_tensor* out) {
    return guarded(call,
                   [&] { *out = released(of(self).grouped(SlotSpec(*slot), borrowed(x), borrowed(offsets), borrowed(tensors, count))); });
  }
  static int32_t recognise(void* self, tenon_call* call, const tenon_value* config, tenon_file* file) {
    return guarded(call, [&] {
      if (const auto options = of(self).recognise(read_value(*config), TensorSource(file))) put(call, *options);
    });
  }
  static int32_t locate(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_file* file) {
    return guarded(call, [&] {
      for (const std::string& name : of(self).locate(SlotSpec(*slot), TensorSource(file))) put(call, name);
    });
  }
  static int32_t unpack(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_file* file) {
    return guarded(call, [&] { put(call, of(self).unpack(SlotSpec(*slot), TensorSource(file))); });
  }
  static int32_t pack(void* self, tenon_call* call, const tenon_slot_v1* slot, const tenon_tensor* tensors, int64_t count) {
    return guarded(call, [&] { put(call, of(self).pack(SlotSpec(*slot), borrowed(tensors, count))); });
  }
  static int32_t quantization_config(void* self, tenon_call* call, const char* const* skipped, int64_t count, int32_t model_dtype) {
    return guarded(call, [&] {
      put(call, of(self).quantization_config({skipped, skipped + count}, static_cast<ScalarType>(model_dtype)));
    });
  }

  static int32_t make_observer(void* self, tenon_call* call, const tenon_slot_v1* slot, void** observer) {
    return guarded(call, [&] { *observer = of(self).make_observer(SlotSpec(*slot)).release(); });
  }
  static int32_t observe(void* observer, tenon_call* call, tenon_tensor x) {
    return guarded(call, [&] { static_cast<Observer*>(observer)->observe(borrowed(x)); });
  }
  static void destroy_observer(void* observer) { delete static_cast<Observer*>(observer); }
  static int32_t calibration_bytes(void* self, tenon_call* call, const tenon_slot_v1* slot, int64_t* out) {
    return guarded(call, [&] { *out = of(self).calibration_bytes(SlotSpec(*slot)); });
  }

  template <bool has_calibration>
  static const void* extension(void*, const char* id) {
    static const tenon_calibration_v1 calibration{
        sizeof(tenon_calibration_v1), 0, make_observer, observe, destroy_observer, calibration_bytes};
    return has_calibration && std::string_view(id) == "tenon.quantizer.calibration/1" ? &calibration : nullptr;
  }
};

// ---- the table ----

template <class Member>
struct ClassOf;
template <class Result, class Class>
struct ClassOf<Result Class::*> {
  using type = Class;
};
// Whether a member function was declared below Quantizer.
template <class Member>
constexpr bool is_overridden = !std::is_same_v<typename ClassOf<Member>::type, Quantizer>;

template <class Impl>
tenon_quantizer_v1 functions_of() {
  tenon_quantizer_v1 t{};
  t.size = sizeof t;
  t.destroy = Functions::destroy;
  t.format = Functions::format;
  t.facts = Functions::facts;
  t.resident = Functions::resident;
  t.quantize = Functions::quantize;
  t.dequantize = Functions::dequantize;
  t.extension = Functions::extension<is_overridden<decltype(&Impl::make_observer)>>;
#define TENON_SLOT_(name) \
  if constexpr (is_overridden<decltype(&Impl::name)>) t.name = Functions::name;
  TENON_SLOT_(supports)
  TENON_SLOT_(row_granule)
  TENON_SLOT_(begin)
  TENON_SLOT_(quantize_rows)
  TENON_SLOT_(finish)
  TENON_SLOT_(linear)
  TENON_SLOT_(linear_many)
  TENON_SLOT_(grad_input)
  TENON_SLOT_(rows)
  TENON_SLOT_(grouped)
  TENON_SLOT_(recognise)
  TENON_SLOT_(locate)
  TENON_SLOT_(unpack)
  TENON_SLOT_(pack)
  TENON_SLOT_(quantization_config)
#undef TENON_SLOT_
  return t;
}

inline int32_t check_option(const tenon_option_v1* self, tenon_call* call, const tenon_value* value) {
  return guarded(call, [&] { put(call, static_cast<const OptionRow*>(self->data)->constraint.check(read_value(*value))); });
}

// One quantizer of the library and all that its table points to. Never moved, never destroyed.
struct Provided {
  std::string name, summary;
  OptionTable table;
  ValueArena arena;
  std::vector<tenon_option_v1> rows;
  std::vector<const tenon_option_v1*> row_pointers;
  std::vector<tenon_entry> retired;
  tenon_quantizer_v1 plain{};

  Provided(std::string n, std::string s, OptionTable t) : name(std::move(n)), summary(std::move(s)), table(std::move(t)) {
    rows.reserve(table.rows.size());
    for (const OptionRow& row : table.rows) {
      tenon_option_v1 o{};
      o.size = sizeof o;
      o.name = row.name.c_str(), o.doc = row.doc.c_str(), o.type = row.type.c_str();
      o.default_value = arena.lower(row.default_value);
      const auto& choices = arena.lower_list(row.constraint.choices);
      o.choices = choices.data(), o.choice_count = static_cast<int64_t>(choices.size());
      o.min = row.constraint.min, o.max = row.constraint.max;
      o.data = &row;
      if (row.constraint.check) o.check = check_option;
      rows.push_back(o);
    }
    for (const auto& row : rows) row_pointers.push_back(&row);
    for (const auto& [old, sentence] : table.retired) retired.push_back({old.c_str(), arena.lower(sentence)});
  }
};

template <class Options, class Impl>
int32_t create(const tenon_quantizer_v1* table, tenon_call* call, const tenon_entry* options, int64_t count, void** self) {
  return guarded(call, [&] {
    Value values = Value::table();
    for (int64_t i = 0; i < count; ++i) values.set(options[i].key, read_value(options[i].value));
    const auto& provided = *static_cast<const Provided*>(table->data);
    *self = static_cast<Quantizer*>(std::make_unique<Impl>(read_options<Options>(provided.table, values)).release());
  });
}

}  // namespace tenon::stable::detail
#pragma GCC visibility pop
