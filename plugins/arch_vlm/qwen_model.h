#pragma once
// A Qwen2-VL or Qwen2.5-VL while it runs. Its first stack is the tower's, the rest is the text model's; at the tower's end features take the places of media
// tokens.
#include <memory>

#include "qwen_config.h"
#include "qwen_positions.h"
#include "qwen_tower.h"
#include "tenon/architecture.h"

namespace tenon::vlm {

inline constexpr const char* kVisualPath = "model.visual";

class QwenVlModel final : public Model {
 public:
  // `parts` outlives the model, `text_parts` belongs to it.
  QwenVlModel(QwenVlConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text);

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return text_->seams(); }
  // Batch::media may hold pixel_values [patches, patch width] with image_grid_thw [pictures, 3], and pixel_values_videos with video_grid_thw and
  // second_per_grid_ts [videos], each in the order of their tokens.
  State begin(const Batch& batch, Cache* cache) override;
  void run_block(int stack, int64_t i, State& state) override;
  at::Tensor finish(State& state) override { return text_->finish(state); }
  at::Tensor auxiliary_loss(const State& state) override { return text_->auxiliary_loss(state); }
  at::Tensor logits(const at::Tensor& hidden) override { return text_->logits(hidden); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override { return text_->token_logprobs(hidden, targets); }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override;

 private:
  Rotary rotary(const RotaryArgs& args) const;
  std::vector<TokenGrids> read_media(const Batch& batch) const;
  at::Tensor read_patches(const Batch& batch, const std::vector<TokenGrids>& kinds) const;
  void join(State& state) const;

  QwenVlConfig config_;
  Parts& parts_;
  Precision precision_;
  QwenTower tower_;
  std::unique_ptr<Parts> text_parts_;
  std::unique_ptr<Model> text_;
};

}  // namespace tenon::vlm
