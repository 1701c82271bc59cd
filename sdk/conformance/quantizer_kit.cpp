#include "quantizer_kit.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/normal.h>

#include <cmath>
#include <cstring>

#include "tenon/json.h"

namespace tenon::conformance {

Tensors Setting::pack(const SlotSpec& slot, const at::Tensor& weight) const {
  std::unique_ptr<Observer> observer;
  if (facts.needs_calibration) {
    observer = quantizer->make_observer(slot);
    expect(observer != nullptr, "its facts say needs_calibration, make_observer returned nothing");
    observer->observe(normal({64, slot.in}, 11).to(device, weight.scalar_type()));
  }
  return quantizer->quantize(slot, weight.to(device).clone(), observer.get());
}

Setting make_setting(Context& context, const Value& options, at::Device device) {
  Setting s;
  s.options = options;
  s.device = device;
  s.quantizer = context.provider(&Registrar::quantizers).make(options);
  expect(s.quantizer != nullptr, "make returned nothing");
  s.facts = s.quantizer->facts();
  const std::string text = options.is_null() || options.as_table().empty() ? "defaults" : to_json(options);
  s.label = concat(text, " on ", device.str());
  return s;
}

Setting default_setting(Context& context) { return make_setting(context, Value::table(), at::kCPU); }

void for_each_setting(Context& context, const std::function<void(const Setting&)>& body) {
  std::vector<Value> all{Value::table()};
  const OptionTable& table = context.provider(&Registrar::quantizers).options;
  if (context.level() > 1)
    for (const auto& row : table.rows) {
      std::vector<Value> values = row.constraint.choices;
      if (row.type == "bool") values = {true, false};
      for (const Value& value : values)
        if (!(value == row.default_value)) all.push_back(Value(Value::Table{{row.name, value}}));
    }
  for (const at::Device device : context.subject().devices())
    for (const Value& options : all) {
      const Setting setting = make_setting(context, options, device);
      bool has_device = false;
      for (const auto& name : setting.facts.devices) has_device |= name == c10::DeviceTypeName(device.type(), /*lower_case=*/true);
      if (!has_device) continue;
      try {
        body(setting);
      } catch (const Failed& failure) {
        failed(setting.label, ": ", failure.text);
      } catch (const std::exception& error) {
        failed(setting.label, ": ", error.what());
      }
    }
}

SlotSpec linear_slot(int64_t out, int64_t in, at::ScalarType dtype) {
  SlotSpec slot;
  slot.path = "model.layers.0.mlp.up_proj";
  slot.out = out, slot.in = in;
  slot.dtype = dtype;
  slot.stack = 0, slot.block = 0;
  slot.sources = {Source::rename(slot.path + ".weight")};
  return slot;
}

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += concat(i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

at::Tensor normal(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype, double scale) {
  at::Tensor t = at::empty(shape, at::kFloat);
  t.normal_(0, scale, at::detail::createCPUGenerator(seed));
  return t.to(dtype);
}

at::Tensor weight_for(const SlotSpec& slot, uint64_t seed, at::Device device) {
  return normal({slot.out, slot.in}, seed, slot.dtype, 0.02).to(device);
}

double relative_rms(const at::Tensor& a, const at::Tensor& b) {
  if (b.numel() == 0) return 0;
  const at::Tensor x = a.to(at::kCPU, at::kDouble), y = b.to(at::kCPU, at::kDouble);
  const double size = y.square().sum().item<double>(), off = (x - y).square().sum().item<double>();
  return size > 0 ? std::sqrt(off / size) : std::sqrt(off);
}

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const at::Tensor x = a.cpu().contiguous(), y = b.cpu().contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

bool same_bytes(const Tensors& a, const Tensors& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (!same_bytes(a[i], b[i])) return false;
  return true;
}

bool all_finite(const at::Tensor& t) { return at::isfinite(t).all().item<bool>(); }

}  // namespace tenon::conformance
