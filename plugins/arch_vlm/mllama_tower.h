#pragma once
// Mllama's vision transformer: the tiles of a picture in one sequence, through plain layers and then through gated ones.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "mllama_config.h"
#include "part_builder.h"
#include "tenon/architecture.h"
#include "tenon/nn/attention.h"

namespace tenon::vlm {

// Adds the tower under `path` as two new stacks, part "vision": the plain layers, then the gated ones. What lies before the layers belongs to the first of
// them, what lies between the stacks to the first gated one.
void add_mllama_tower(Blueprint& blueprint, const MllamaVisionConfig& config, const std::string& path, const Prefixes& files);

// Pictures of one batch. Hidden states are [pictures, places, hidden]: the tokens of all tiles, tile by tile, then the padding of all tiles.
struct TilePictures {
  at::Tensor pixels;           // [pictures, max_tiles, channels, image_size, image_size]
  at::Tensor ids;              // of aspect ratios, [pictures] int64; 0: no picture
  std::vector<int64_t> tiles;  // that are not empty, of each picture; they come first
};

class MllamaTower {
 public:
  // `parts` outlives the tower. `stack`: of the plain layers in the blueprint, the gated ones follow.
  MllamaTower(MllamaVisionConfig config, Parts& parts, const std::string& path, int stack);

  // What goes into the first layer.
  at::Tensor embed(const TilePictures& pictures) const;
  at::Tensor layer(int64_t i, const at::Tensor& hidden, const std::vector<int64_t>& tiles) const;
  // From the last plain layer to the first gated one.
  at::Tensor between(const at::Tensor& hidden, const at::Tensor& ids) const;
  at::Tensor global_layer(int64_t i, const at::Tensor& hidden, const std::vector<int64_t>& tiles) const;
  // `last` of the gated layers and `kept` of the plain ones -> [pictures, picture_tokens, out].
  at::Tensor features(const at::Tensor& last, const std::vector<at::Tensor>& kept) const;
  const MllamaVisionConfig& config() const { return config_; }

 private:
  struct Norm {
    Dense *weight = nullptr, *bias = nullptr;
  };
  struct Layer {
    Norm before_attention, before_mlp;
    Slot *q = nullptr, *k = nullptr, *v = nullptr, *out = nullptr, *fc1 = nullptr, *fc2 = nullptr;
    Dense *attention_gate = nullptr, *mlp_gate = nullptr;  // of gated ones
    at::Device device = at::kCPU;
  };
  // Rows of a table for aspect ratios, one for each tile.
  struct TileTable {
    Dense *rows = nullptr, *gate = nullptr;
  };
  Layer find_layer(Parts& parts, const std::string& name, at::Device device, bool is_gated) const;
  at::Tensor norm(const at::Tensor& x, const Norm& norm, double eps, at::ScalarType out) const;
  at::Tensor gate(const Dense& gate, at::Device device) const;
  at::Tensor tile_rows(const TileTable& table, const at::Tensor& ids, int64_t tokens) const;
  at::Tensor run(const Layer& layer, const at::Tensor& hidden, const std::vector<int64_t>& tiles) const;
  at::Tensor attention(const Layer& layer, const at::Tensor& x, const std::vector<int64_t>& tiles) const;

  MllamaVisionConfig config_;
  Precision precision_;
  Dense *patches_, *class_token_, *positions_, *position_gate_, *tile_positions_;
  TileTable before_, after_;
  Norm first_norm_, middle_norm_;
  std::vector<Layer> layers_, global_layers_;
  nn::Attention attention_;
};

}  // namespace tenon::vlm
