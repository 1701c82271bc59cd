#pragma once
// An mllama while it runs. The tower's two stacks come first; the text model's blocks are another plugin's, but for those that look at pictures.
#include <memory>

#include "mllama_config.h"
#include "mllama_cross.h"
#include "mllama_tower.h"
#include "tenon/architecture.h"

namespace tenon::vlm {

inline constexpr const char* kMllamaTowerPath = "model.vision_model";
inline constexpr const char* kMllamaProjectorPath = "model.multi_modal_projector";
inline constexpr const char* kMllamaTextPath = "model.language_model";
// Stacks of the blueprint.
inline constexpr int kMllamaTower = 0, kMllamaGlobal = 1, kMllamaText = 2;

class MllamaModel final : public Model {
 public:
  // `parts` outlives the model, `text_parts` belongs to it.
  MllamaModel(MllamaConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text);

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return text_->seams(); }
  // Batch::media may hold pixel_values [pictures, max_num_tiles, 3, image_size, image_size] with aspect_ratio_ids [pictures] and aspect_ratio_mask
  // [pictures, max_num_tiles], in the order of their tokens: every row is what it is alone. Or all three with [rows, pictures] in place of [pictures], filled
  // up with empty pictures of id 0, as transformers' processor makes them: then tokens that see no picture look at those too, as they do there.
  State begin(const Batch& batch, Cache* cache) override;
  void run_block(int stack, int64_t i, State& state) override;
  at::Tensor finish(State& state) override;
  at::Tensor auxiliary_loss(const State& state) override { return text_->auxiliary_loss(state); }
  at::Tensor logits(const at::Tensor& hidden) override { return text_->logits(hidden); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override { return text_->token_logprobs(hidden, targets); }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override;

 private:
  std::pair<TilePictures, Pictures> read_pictures(const Batch& batch) const;
  void run_tower(int stack, int64_t i, State& state) const;
  void join(State& state) const;

  MllamaConfig config_;
  Parts& parts_;
  Precision precision_;
  MllamaTower tower_;
  std::unique_ptr<Parts> text_parts_;
  std::unique_ptr<Model> text_;
  CrossLayers cross_;
  Slot* projector_;
};

}  // namespace tenon::vlm
