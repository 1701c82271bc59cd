// What a quantizer owes: the error that it declares, and the bytes.
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>

#include <cstdio>

#include "tenon/plugin.h"

extern "C" void tenon_plugin_register(tenon::Registrar* registrar);  // what the host calls

int main() {
  tenon::Registrar registrar;
  tenon_plugin_register(&registrar);
  const auto quantizer = registrar.quantizers.at(0).make(tenon::Value::table());

  tenon::SlotSpec slot;
  slot.path = "model.layers.0.mlp.up_proj";
  slot.out = 64, slot.in = 256;
  const at::Tensor weight = at::randn({slot.out, slot.in});
  const tenon::Tensors packed = quantizer->quantize(slot, weight, nullptr);
  const at::Tensor back = quantizer->dequantize(slot, packed, at::kFloat);
  const double error = ((back - weight).norm() / weight.norm()).item<double>();
  double bits = 0;
  for (const auto& tensor : packed) bits += 8.0 * static_cast<double>(tensor.nbytes()) / static_cast<double>(slot.numel());

  std::printf("relative error %.4f, %.2f bits a weight\n", error, bits);
  const auto facts = quantizer->facts();
  return error > 0 && error <= facts.max_relative_error && bits == facts.bits_per_weight ? 0 : 1;
}
