#pragma once
// A pre-norm decoder while it runs: attention and gated mlp, both added to the hidden state.
#include <memory>
#include <string>
#include <vector>

#include "families.h"
#include "tenon/architecture.h"
#include "tenon/nn/kv_cache.h"

namespace tenon::llama {

class DecoderModel final : public Model {
 public:
  // `parts` outlives the model.
  DecoderModel(DecoderConfig config, Parts& parts);

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return seams_; }
  State begin(const Batch& batch, Cache* cache) override;
  void run_block(int stack, int64_t i, State& state) override;
  at::Tensor finish(State& state) override;
  at::Tensor auxiliary_loss(const State& state) override;
  at::Tensor logits(const at::Tensor& hidden) override;
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override;
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override;

 private:
  // Slots and tensors of one block; the host owns them. With a router, gate_up and down hold experts.
  struct Layer {
    Slot *q = nullptr, *k = nullptr, *v = nullptr, *qkv = nullptr;  // three, or one
    Slot* o = nullptr;
    Slot *gate = nullptr, *up = nullptr, *gate_up = nullptr, *down = nullptr;  // two, or one
    Dense* router = nullptr;
    Dense *q_norm = nullptr, *k_norm = nullptr;
    Dense *attention_norm = nullptr, *mlp_norm = nullptr;          // of what goes in
    Dense *attention_out_norm = nullptr, *mlp_out_norm = nullptr;  // of what comes out, where there are any
    at::Device device = at::kCPU;
    int64_t window = 0;
    bool rotates = true;
  };
  void set_defaults();
  void block(State& state, int64_t i) const;
  at::Tensor attention(const Layer& layer, const at::Tensor& x, const State& state, int64_t i) const;
  at::Tensor mlp(const Layer& layer, const at::Tensor& x) const;
  at::Tensor mixture(const Layer& layer, const MlpArgs& args) const;
  std::vector<at::Tensor> query_key_value(const Layer& layer, const at::Tensor& x) const;
  at::Tensor norm(const at::Tensor& x, const Dense& weight) const;

  DecoderConfig config_;
  Parts& parts_;
  Precision precision_;
  Seams seams_;
  Slot *embedding_, *head_;
  Dense* final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace tenon::llama
