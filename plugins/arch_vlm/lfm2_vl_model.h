#pragma once
// An lfm2_vl while it runs. Its first stack is the tower's, over the patches of all pictures one behind the other; the rest is the text model's.
#include <memory>
#include <vector>

#include "lfm2_vl_config.h"
#include "projector.h"
#include "tenon/architecture.h"
#include "tower.h"

namespace tenon::vlm {

inline constexpr const char* kNaflexPath = "model.vision_tower";

// [1, T, width], pictures of `grids` one behind the other -> [1, T / factor^2, width * factor^2]: the patches of each square side by side, row by row.
at::Tensor unshuffle(const at::Tensor& features, const std::vector<Size>& grids, int64_t factor);

class Lfm2VlModel final : public Model {
 public:
  // `parts` outlives the model, `text_parts` belongs to it.
  Lfm2VlModel(Lfm2VlConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text);

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return text_->seams(); }
  // Batch::media may hold pixel_values [views, patches, patch width], spatial_shapes [views, 2], their rows and columns of patches, and
  // pixel_attention_mask [views, patches], 1 for those patches; in the order of their tokens.
  State begin(const Batch& batch, Cache* cache) override;
  void run_block(int stack, int64_t i, State& state) override;
  at::Tensor finish(State& state) override { return text_->finish(state); }
  at::Tensor auxiliary_loss(const State& state) override { return text_->auxiliary_loss(state); }
  at::Tensor logits(const at::Tensor& hidden) override { return text_->logits(hidden); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override { return text_->token_logprobs(hidden, targets); }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override { return text_->make_cache(batch, capacity); }

 private:
  std::vector<Size> read_shapes(const Batch& batch) const;
  void check_mask(const Batch& batch, const std::vector<Size>& grids) const;
  void join(State& state, const std::vector<Size>& grids) const;

  Lfm2VlConfig config_;
  Parts& parts_;
  Precision precision_;
  Tower tower_;
  Projector projector_;
  std::unique_ptr<Parts> text_parts_;
  std::unique_ptr<Model> text_;
};

}  // namespace tenon::vlm
