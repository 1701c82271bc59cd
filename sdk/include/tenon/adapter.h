#pragma once
// An adapter puts small trainable pieces around slots. It decides where, computes beside the base weight, and knows its own files;
// the host drives it through loading, training, saving and merging.
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tenon/blueprint.h"
#include "tenon/export.h"
#include "tenon/filler.h"
#include "tenon/quantizer.h"
#include "tenon/value.h"

namespace tenon {

// A trainable tensor of an adapter, a leaf that requires gradients (unless frozen for use).
struct AdapterParameter {
  std::string name;  // as in the adapter's file
  at::Tensor tensor;
};

// Quantizes and dequantizes with whatever will fill the slot; the identity when it stays dense.
using RoundTrip = std::function<at::Tensor(const at::Tensor& weight)>;

class TENON_API Adapter {
 public:
  virtual ~Adapter();

  // Slot paths it will wrap, in blueprint order; Error(Recipe) when a target names nothing, with the nearest names.
  virtual std::vector<std::string> targets(const Blueprint& blueprint) const = 0;
  // Those of targets() that wrap() replaces by a copy, trained whole and saved with the adapter: never quantized, and no longer tied.
  virtual std::vector<std::string> modules_to_save(const Blueprint&) const { return {}; }
  // Trainable tensors around one target: the plan's bytes. Names as in the file.
  virtual std::vector<TensorSpec> parameters(const SlotSpec& slot) const = 0;
  // Elements in the compute dtype that one token keeps for the backward pass around one target, the slot's own input not counted. For the plan.
  virtual double activation_elements(const SlotSpec&) const { return 0; }

  // While loading, before quantization: the weight to quantize instead ([out, in], float32); LoftQ, PiSSA. Default: unchanged and not asked for.
  virtual bool wants_weight() const { return false; }
  virtual at::Tensor prepare(const SlotSpec&, const at::Tensor& weight, const RoundTrip&) { return weight; }

  // Wraps what fills a target; called once per target, in blueprint order, after the fill. Makes the parameters on `device`, initialised from the
  // default generator (which the host has seeded); trainable: leaves require gradients.
  virtual std::shared_ptr<Filler> wrap(const SlotSpec& slot, std::shared_ptr<Filler> base, at::Device device, bool trainable) = 0;

  // All wrapped parameters, in order.
  virtual std::vector<AdapterParameter> state() const = 0;
  // Off: wrapped slots act like their base (the reference of preference objectives).
  virtual void set_enabled(bool enabled) = 0;
  virtual void set_training(bool training) = 0;  // dropout

  // Files: the adapter's JSON config (adapter_config.json in PEFT's layout) and weights, keyed as `state` names them.
  virtual Value config(const std::string& base_model) const = 0;
  // Takes the options from a saved config, before targets(). Throws Error(Data) for anything that changes the maths and is not known.
  virtual void configure(const Value& saved_config) = 0;
  // After wrap. Every tensor of the file must find its place and every parameter its tensor: else Error(Data) listing all that do not.
  virtual void load(const TensorSource& weights) = 0;

  // weight: the dense base [out, in] float32 -> with the adapter's change added.
  virtual at::Tensor merge(const SlotSpec& slot, const at::Tensor& weight) const = 0;
};

}  // namespace tenon
