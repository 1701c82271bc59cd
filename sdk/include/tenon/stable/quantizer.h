#pragma once
// A quantizer of the stable tier: the interface of tenon/quantizer.h over LibTorch's stable ABI. What each function owes is said there;
// what is not overridden has the default said there, done by the host. A function that overrides one may still leave single calls to that default:
// it calls the base class's.
//
// Overridden functions must be public and not overloaded. They are const and run on several threads at once. Errors are thrown (tenon::Error, or any
// std::exception); their texts reach the user whole.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tenon/stable/types.h"

#pragma GCC visibility push(hidden)
namespace tenon::stable {

// Gathers what calibration needs from the inputs of one input group.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void observe(const Tensor& x) = 0;  // [tokens, in]
};

class Quantizer {
 public:
  virtual ~Quantizer() = default;

  virtual std::string format() const = 0;  // "mine/1": other packing, other number
  virtual QuantizerFacts facts() const = 0;
  virtual std::vector<TensorSpec> resident(const SlotSpec& slot) const = 0;
  virtual Tensors quantize(const SlotSpec& slot, const Tensor& weight, const Observer* calibration) const = 0;
  // Rows [first_row, last_row).
  virtual Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, ScalarType dtype, int64_t first_row, int64_t last_row) const = 0;

  virtual Support supports(const SlotSpec&) const { host_default(); }
  // Streaming: all four or none.
  virtual int64_t row_granule(const SlotSpec&) const { host_default(); }
  virtual Tensors begin(const SlotSpec&, Device) const { host_default(); }
  virtual void quantize_rows(const SlotSpec&, const Tensor& /*rows*/, int64_t /*first_row*/, Tensors& /*work*/) const { host_default(); }
  virtual Tensors finish(const SlotSpec&, Tensors /*work*/) const { host_default(); }

  struct Operand {
    const SlotSpec* slot;
    const Tensors* tensors;
  };
  virtual Tensor linear(const SlotSpec&, const Tensor& /*x*/, const Tensors&) const { host_default(); }
  virtual Tensors linear_many(const std::vector<Operand>&, const Tensor& /*x*/) const { host_default(); }
  virtual Tensor grad_input(const SlotSpec&, const Tensor& /*dy*/, const Tensors&) const { host_default(); }
  virtual Tensor rows(const SlotSpec&, const Tensor& /*ids*/, const Tensors&, ScalarType) const { host_default(); }
  virtual Tensor grouped(const SlotSpec&, const Tensor& /*x*/, const Tensor& /*offsets*/, const Tensors&) const { host_default(); }

  virtual std::unique_ptr<Observer> make_observer(const SlotSpec&) const { return nullptr; }
  // What an observer of this slot and quantize() with it hold at most, beyond the weight and the result: for the plan.
  virtual int64_t calibration_bytes(const SlotSpec&) const { return 0; }

  virtual std::optional<Value> recognise(const Value& /*quantization_config*/, const TensorSource&) const { host_default(); }
  virtual std::vector<std::string> locate(const SlotSpec&, const TensorSource&) const { host_default(); }
  virtual Tensors unpack(const SlotSpec&, const TensorSource&) const { host_default(); }
  virtual std::vector<NamedTensor> pack(const SlotSpec&, const Tensors&) const { host_default(); }
  virtual Value quantization_config(const std::vector<std::string>& /*skipped_modules*/, ScalarType /*model_dtype*/) const {
    host_default();
  }

 private:
  [[noreturn]] static void host_default() { throw detail::UseDefault{}; }
};

}  // namespace tenon::stable
#pragma GCC visibility pop
