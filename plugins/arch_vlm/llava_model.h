#pragma once
// A llava while it runs. Its first stack is the tower's, the rest is the text model's; features take the places of image tokens between the two.
#include <memory>

#include "llava_config.h"
#include "llava_tiles.h"
#include "projector.h"
#include "tenon/architecture.h"
#include "tower.h"

namespace tenon::vlm {

inline constexpr const char* kTowerPath = "model.vision_tower";
inline constexpr const char* kProjectorPath = "model.multi_modal_projector";
inline constexpr const char* kNewlinePath = "model.image_newline";
inline constexpr int kVisionStack = 0;

class LlavaModel final : public Model {
 public:
  // `parts` outlives the model, `text_parts` belongs to it.
  LlavaModel(LlavaConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text);

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return text_->seams(); }
  // Batch::media may hold pixel_values [pictures, 3, image_size, image_size], in the order of their tokens. Of a tiled family: [pictures, views, 3,
  // image_size, image_size], the whole view first, with image_sizes [pictures, 2], their heights and widths; views that a picture does not have are not looked at.
  State begin(const Batch& batch, Cache* cache) override;
  void run_block(int stack, int64_t i, State& state) override;
  at::Tensor finish(State& state) override { return text_->finish(state); }
  at::Tensor logits(const at::Tensor& hidden) override { return text_->logits(hidden); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override { return text_->token_logprobs(hidden, targets); }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override { return text_->make_cache(batch, capacity); }

 private:
  at::Tensor places(const at::Tensor& ids, const at::Tensor& segments, int64_t pictures, int64_t expected) const;
  std::vector<Tiling> tilings(const at::Tensor& sizes) const;
  // The tiles of all pictures one behind the other, and how many tokens they take.
  std::pair<at::Tensor, int64_t> cut_views(const at::Tensor& pixels, const at::Tensor& sizes) const;
  void keep_feature(int64_t index, State& state) const;
  void join(State& state) const;

  LlavaConfig config_;
  Parts& parts_;
  Precision precision_;
  Tower tower_;
  std::unique_ptr<Parts> text_parts_;
  std::unique_ptr<Model> text_;
  Projector projector_;
  Dense* newline_ = nullptr;
  int64_t last_layer_;  // of the tower: no feature comes from later ones
};

}  // namespace tenon::vlm
