#pragma once
// A voxtral while it runs. Its first stack is the encoder's, the rest is the text model's; features take the places of audio tokens between the two.
#include <memory>

#include "audio_tower.h"
#include "projector.h"
#include "tenon/architecture.h"
#include "voxtral_config.h"

namespace tenon::vlm {

inline constexpr const char* kAudioPath = "model.audio_tower";
inline constexpr int kAudioStack = 0;

class VoxtralModel final : public Model {
 public:
  // `parts` outlives the model, `text_parts` belongs to it.
  VoxtralModel(VoxtralConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text);

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return text_->seams(); }
  // Batch::media may hold input_features [windows, mels, frames], in the order of their tokens.
  State begin(const Batch& batch, Cache* cache) override;
  void run_block(int stack, int64_t i, State& state) override;
  at::Tensor finish(State& state) override { return text_->finish(state); }
  at::Tensor logits(const at::Tensor& hidden) override { return text_->logits(hidden); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override { return text_->token_logprobs(hidden, targets); }
  at::Tensor auxiliary_loss(const State& state) override { return text_->auxiliary_loss(state); }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override { return text_->make_cache(batch, capacity); }

 private:
  void join(State& state) const;

  VoxtralConfig config_;
  Parts& parts_;
  AudioTower tower_;
  std::unique_ptr<Parts> text_parts_;
  std::unique_ptr<Model> text_;
  Projector projector_;
};

}  // namespace tenon::vlm
