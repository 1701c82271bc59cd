#pragma once
// The layers of an mllama's text model that look at pictures: gated attention to a picture's tokens, and a gated mlp.
#include <memory>
#include <vector>

#include "mllama_config.h"
#include "mllama_sight.h"
#include "tenon/architecture.h"

namespace tenon::vlm {

// The decoder's keys and values, those of pictures, and who looks at which.
class MllamaCache final : public Cache {
 public:
  MllamaCache(std::unique_ptr<Cache> text, int64_t batch, int64_t layers);
  int64_t length() const override { return text_->length(); }
  int64_t capacity() const override { return text_->capacity(); }
  void truncate(int64_t length) override;

  Cache* text() { return text_.get(); }
  bool fits(int64_t batch) const { return static_cast<int64_t>(marks_.size()) == batch; }
  // Without tokens that were never committed.
  Marks& marks();
  // The number that the next picture gets.
  int64_t next_picture();

  // Of one layer. Keys and values of pictures are computed once, in the call that brings them, and stay as they are.
  struct Pair {
    at::Tensor k, v;  // [pictures, kv_heads, tokens, head_dim]
  };
  void keep(int64_t layer, int64_t first_picture, Pair pair);
  // Of pictures that stand in several views a copy in one piece is kept for each row: decoding reads it again and again.
  Pair find(int64_t layer, int64_t row, const std::vector<View>& views, int64_t tile_tokens);

 private:
  struct Kept {
    int64_t first = 0;
    Pair pair;
  };
  struct Joined {
    std::vector<View> views;
    Pair pair;
  };
  struct Layer {
    std::vector<Kept> kept;
    std::vector<Joined> joined;  // by row
  };
  Pair cut(const Layer& layer, const View& view, int64_t tile_tokens) const;
  void forget();

  std::unique_ptr<Cache> text_;
  Marks marks_;
  std::vector<Layer> layers_;
};

class CrossLayers {
 public:
  // `parts` outlives the layers, `seams` too. `path`: of the text model.
  CrossLayers(const MllamaConfig& config, Parts& parts, Seams& seams, const std::string& path);

  // What a State carries to them: put in by prepare(), features by the model when the tower is done.
  static void prepare(State& state, const std::vector<Stretch>& stretches, int64_t first_picture);
  static void set_features(State& state, at::Tensor features);
  // Layer i of the text model. A pass in which nobody sees a picture leaves it out. `cache` may be null.
  void run(State& state, int64_t i, MllamaCache* cache) const;

 private:
  struct Layer {
    Slot *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr;
    Dense *q_norm = nullptr, *k_norm = nullptr, *attention_norm = nullptr, *mlp_norm = nullptr;
    Dense *attention_gate = nullptr, *mlp_gate = nullptr;
  };
  at::Tensor norm(const at::Tensor& x, const Dense& weight) const;
  at::Tensor gate(const Dense& gate, const at::Tensor& like) const;
  at::Tensor heads(const at::Tensor& x, int64_t count) const;
  MllamaCache::Pair keys(const Layer& layer, const at::Tensor& features) const;
  at::Tensor attention(const Layer& layer, const at::Tensor& x, const State& state, int64_t i, MllamaCache* cache) const;

  const MllamaConfig& config_;
  Seams& seams_;
  Precision precision_;
  std::vector<Layer> layers_;  // of all layers; empty where they look at text
};

}  // namespace tenon::vlm
