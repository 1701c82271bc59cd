#pragma once
// The second moments of a module's inputs, H = 2 / n * sum x x^T, and what the quantization loop needs of them.
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <mutex>

#include "settings.h"
#include "tenon/quantizer.h"

namespace tenon::gptq {

// Columns in the order in which they are quantized, and the upper triangular U with U^T U = (H + damp)^-1 in that order.
struct Factor {
  at::Tensor order;  // int64 [in], on the CPU as all of these; undefined: as they come
  at::Tensor upper;  // float32 [in, in]; undefined: H could not be inverted with any damping
  at::Tensor dead;   // bool [in], in the weight's order: columns whose input was always zero
  double damp = 0;
};

class Hessian final : public Observer {
 public:
  explicit Hessian(std::string path, int64_t columns);
  void observe(const at::Tensor& x) override;
  int64_t tokens() const { return tokens_; }
  // Computed once for all modules that read the same input; thread-safe. Error(Data) when an input was not finite.
  std::shared_ptr<const Factor> factor(const Settings& settings) const;

 private:
  void observe_on_device(const at::Tensor& x);
  at::Tensor matrix() const;

  std::string path_;
  int64_t columns_, tokens_ = 0;
  at::Tensor sum_;  // float32 [in, in], on and right of the diagonal
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::shared_ptr<const Factor>> factors_;
};

}  // namespace tenon::gptq
