#pragma once
// A slot: the place of one weight in a model, named by its module path, and where its bytes come from.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tenon {

// Shape and dtype of a tensor without its data.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  at::ScalarType dtype = at::kFloat;

  int64_t numel() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t bytes() const { return numel() * static_cast<int64_t>(c10::elementSize(dtype)); }
};

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

// How one tensor of the model is made of tensors of a checkpoint file, for one layout of that file. Pieces are rows of file
// tensors: one whole piece is a rename, several are concatenated along dimension 0 (a fused projection split, or split ones
// fused), or stacked into a new leading dimension: as many consecutive pieces to each member (an expert's gate and up
// projections). Export runs it backwards.
struct Source {
  struct Piece {
    std::string tensor;
    int64_t start = 0;
    int64_t length = -1;  // rows; -1: all
  };
  std::vector<Piece> pieces;
  bool stack = false;

  static Source rename(std::string tensor) { return Source{{Piece{std::move(tensor)}}}; }
};

enum class SlotKind { Linear, Embedding, Experts };
enum class SlotRole { Inner, InputEmbedding, OutputHead };
// How tensor parallelism may cut the weight: by output rows, by input columns, or not at all.
enum class Partition { Replicate, Column, Row };

struct SlotSpec {
  std::string path;  // "model.layers.0.self_attn.q_proj"
  SlotKind kind = SlotKind::Linear;
  SlotRole role = SlotRole::Inner;
  int64_t count = 1;        // experts; 1 otherwise
  int64_t out = 0, in = 0;  // the weight is [out, in]; of an embedding [vocabulary, width]
  bool bias = false;
  at::ScalarType dtype = at::kFloat;  // of the weight while dense
  int stack = -1;                     // index into Blueprint::stacks; -1: before or after the blocks
  int64_t block = -1;                 // index in that stack
  std::string input_group;            // slots with equal, non-empty groups read the same activation (q, k and v)
  int stage = 0;                      // order of execution inside the block
  Partition partition = Partition::Replicate;
  std::string part;             // of a model of several parts: "vision", "projector"; empty: the language model
  std::string tied_to;          // path of the slot whose weight this one shares; empty: its own
  std::vector<Source> sources;  // one per known file layout, in order of preference; empty when tied
  std::vector<Source> bias_sources;
  // The module path under which files know it, where that is another one: set by the host from the layout, or by the architecture, which wins.
  std::string file_path;

  int64_t numel() const { return count * out * in; }
};

enum class DenseKind { Norm, Router, Position, Convolution, Other };

// A tensor that is no slot: norm weights, sinks, gates. Never quantized.
struct DenseSpec {
  std::string path;  // with its last component, "model.norm.weight"
  DenseKind kind = DenseKind::Norm;
  std::vector<int64_t> shape;
  at::ScalarType dtype = at::kFloat;
  int stack = -1;
  int64_t block = -1;
  std::string part;  // as SlotSpec::part
  std::vector<Source> sources;
};

}  // namespace tenon
