#include "abi/probe.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/options.h"
#include "base/sha256.h"
#include "support/memory_file.h"
#include "tenon/json.h"

namespace tenon::testing {

namespace {

constexpr int64_t kOut = 24, kIn = 64;

// The same numbers everywhere, whatever LibTorch's generator does.
at::Tensor numbers(std::vector<int64_t> shape, uint32_t seed, at::ScalarType dtype = at::kFloat) {
  at::Tensor t = at::empty(shape, at::kFloat);
  float* v = t.mutable_data_ptr<float>();
  for (int64_t i = 0; i < t.numel(); ++i) {
    seed = seed * 1664525u + 1013904223u;
    v[i] = static_cast<float>(static_cast<int>(seed >> 24) - 128) / 8;
  }
  return t.to(dtype);
}

Value text_of(const at::Tensor& tensor) {
  const at::Tensor t = tensor.contiguous();
  const std::string_view bytes(static_cast<const char*>(t.const_data_ptr()), t.nbytes());
  return concat(c10::toString(t.scalar_type()), " ", t.sizes(), " ", host::sha256(bytes).substr(0, 32));
}

Value text_of(const std::vector<at::Tensor>& tensors) {
  Value list = Value::list();
  for (const auto& t : tensors) list.as_list().push_back(text_of(t));
  return list;
}

SlotSpec slot_of(const std::string& path) {
  return {
      .path = path, .out = kOut, .in = kIn, .dtype = at::kBFloat16, .input_group = "group", .sources = {Source::rename(path + ".weight")}};
}

Value described(const OptionTable& table) {
  Value rows = Value::list();
  for (const auto& row : table.rows)
    rows.as_list().push_back(
        concat(row.name, " ", row.type, " ", to_json(row.default_value), " ", host::constraint_text(row), " ", row.doc));
  for (const auto& [name, sentence] : table.retired) rows.as_list().push_back(concat(name, ": ", sentence));
  return rows;
}

}  // namespace

Value probe(const Provider<Quantizer>& provider, const Value& options) {
  Value results = Value::table();
  auto step = [&](const std::string& name, auto&& body) {
    try {
      results.set(name, body());
    } catch (const Error& error) {
      results.set(name, concat("error ", static_cast<int>(error.code()), ": ", error.what()));
    }
  };
  step("options", [&] { return described(provider.options); });
  const std::shared_ptr<Quantizer> q = provider.make(options);
  const SlotSpec slot = slot_of("model.layers.3.up");
  step("format", [&] { return Value(q->format()); });
  step("facts", [&] {
    const auto f = q->facts();
    std::vector<std::string> dtypes;
    for (const auto dtype : f.compute_dtypes) dtypes.push_back(c10::toString(dtype));
    return Value(Value::Table{{"bits", f.bits_per_weight},
                              {"devices", f.devices},
                              {"dtypes", dtypes},
                              {"calibration", f.needs_calibration},
                              {"error", f.max_relative_error}});
  });
  step("resident", [&] {
    Value list = Value::list();
    for (const auto& s : q->resident(slot)) list.as_list().push_back(concat(s.name, " ", c10::toString(s.dtype), " ", to_json(s.shape)));
    return list;
  });
  for (const SlotKind kind : {SlotKind::Linear, SlotKind::Embedding, SlotKind::Experts})
    step(concat("supports ", static_cast<int>(kind)), [&] {
      SlotSpec other = slot;
      other.kind = kind, other.count = kind == SlotKind::Experts ? 4 : 1;
      const Support s = q->supports(other);
      return Value(s.yes ? "yes" : s.reason);
    });

  Tensors packed;
  for (const auto dtype : {at::kBFloat16, at::kHalf, at::kFloat})
    step(concat("quantize ", c10::toString(dtype)), [&] {
      return text_of(packed = q->quantize(slot, numbers({kOut, kIn}, 1, dtype), nullptr));
    });
  if (packed.empty()) return results;
  step("panels", [&] {
    const int64_t granule = q->row_granule(slot);
    if (granule == 0) return Value("none");
    Tensors work = q->begin(slot, at::kCPU);
    for (int64_t row = 0; row < kOut; row += granule * 5)
      q->quantize_rows(slot, numbers({kOut, kIn}, 1).narrow(0, row, std::min(granule * 5, kOut - row)), row, work);
    return text_of(q->finish(slot, work));
  });
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    step(concat("dequantize ", c10::toString(dtype)), [&] { return text_of(q->dequantize(slot, packed, dtype)); });
  step("dequantize rows", [&] { return text_of(q->dequantize(slot, packed, at::kFloat, 5, 11)); });
  for (const int64_t m : {1, 2, 5, 16})
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      step(concat("linear ", m, " ", c10::toString(dtype)), [&] { return text_of(q->linear(slot, numbers({m, kIn}, 2, dtype), packed)); });
  step("linear_many", [&] {
    const SlotSpec other = slot_of("model.layers.3.gate");
    const Tensors second = q->quantize(other, numbers({kOut, kIn}, 3), nullptr);
    const std::vector<Quantizer::Operand> operands{{&slot, &packed}, {&other, &second}};
    return text_of(q->linear_many(operands, numbers({1, 2, kIn}, 2)));
  });
  step("host linear 40", [&] { return text_of(q->linear(slot, numbers({40, kIn}, 2), packed)); });
  step("host grad_input", [&] { return text_of(q->grad_input(slot, numbers({3, kOut}, 4), packed)); });
  step("rows", [&] { return text_of(q->rows(slot, at::tensor({3, 0, 23, 3}, at::kLong), packed, at::kFloat)); });
  step("rows outside", [&] { return text_of(q->rows(slot, at::tensor({24}, at::kLong), packed, at::kFloat)); });
  step("observer", [&] {
    const auto observer = q->make_observer(slot);
    if (!observer) return Value("none");
    observer->observe(numbers({7, kIn}, 5));
    return text_of(q->quantize(slot, numbers({kOut, kIn}, 1), observer.get()));
  });
  step("quantization_config", [&] { return Value(to_json(q->quantization_config({"lm_head"}, at::kBFloat16))); });
  MemoryFile file;
  step("pack", [&] {
    Value names = Value::table();
    for (const auto& [name, tensor] : q->pack(slot, packed)) file.tensors[name] = tensor, names.set(name, text_of(tensor));
    return names;
  });
  step("locate", [&] { return Value(q->locate(slot, file)); });
  step("unpack", [&] { return text_of(q->unpack(slot, file)); });
  step("unpack nothing", [&] { return text_of(q->unpack(slot, MemoryFile())); });
  const std::string state = R"({"list": [1, 2.5, "x", null, {"deep": true}]})";
  file.tensors["state"] = at::empty({static_cast<int64_t>(state.size())}, at::kByte);
  std::memcpy(file.tensors["state"].mutable_data_ptr(), state.data(), state.size());
  step("recognise", [&] {
    const auto found = q->recognise(q->quantization_config({}, at::kFloat), file);
    return found ? Value(to_json(*found)) : Value("no");
  });
  step("recognise another", [&] {
    const auto found = q->recognise(Value(Value::Table{{"quant_method", "another"}}), file);
    return found ? Value(to_json(*found)) : Value("no");
  });
  return results;
}

}  // namespace tenon::testing
