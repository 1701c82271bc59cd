#pragma once
// An lfm2 while it runs: blocks of a short convolution or of attention, each before a gated mlp.
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "tenon/architecture.h"

namespace tenon::lfm2 {

class Lfm2Model final : public Model {
 public:
  // `parts` outlives the model.
  Lfm2Model(Config config, Parts& parts);

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return seams_; }
  State begin(const Batch& batch, Cache* cache) override;
  void run_block(int stack, int64_t i, State& state) override;
  at::Tensor finish(State& state) override;
  at::Tensor logits(const at::Tensor& hidden) override;
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override;
  // truncate() goes back 64 tokens, or to 0: see ConvCache.
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override;

 private:
  // Slots and tensors of one block; the host owns them.
  struct Layer {
    Slot *q = nullptr, *k = nullptr, *v = nullptr;  // of attention
    Dense *q_norm = nullptr, *k_norm = nullptr;
    Slot* in = nullptr;  // of a convolution
    Dense *taps = nullptr, *tap_bias = nullptr;
    Slot* out = nullptr;  // of either
    Slot *gate = nullptr, *up = nullptr, *down = nullptr;
    Dense *operator_norm = nullptr, *mlp_norm = nullptr;
    int64_t place = 0;  // among the layers of its kind
    at::Device device = at::kCPU;
  };
  void set_defaults();
  void block(State& state, int64_t i) const;
  at::Tensor attention(const Layer& layer, const at::Tensor& x, const State& state, int64_t i) const;
  at::Tensor convolution(const Layer& layer, const at::Tensor& x, const State& state) const;
  at::Tensor mlp(const Layer& layer, const at::Tensor& x) const;
  at::Tensor norm(const at::Tensor& x, const Dense& weight) const;

  Config config_;
  Parts& parts_;
  Precision precision_;
  Seams seams_;
  Slot *embedding_, *head_;
  Dense* final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace tenon::lfm2
