#pragma once
// Sources run backwards: from the slots and tensors of a model to the tensors of a file.
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "tenon/blueprint.h"

namespace tenon::host {

// A stretch of a file tensor and what of the model fills it. Rows count in the flat form: a weight is [count * out, in], a bias and a one-dimensional
// tensor have one element a row.
struct FilePart {
  enum class Kind { Weight, Bias, Tensor };
  Kind kind = Kind::Weight;
  std::string path;           // of the slot or tensor
  int64_t row = 0, rows = 0;  // of the model's weight
  int64_t file_row = 0;
};

struct FileTensor {
  TensorSpec spec;
  std::vector<FilePart> parts;  // in file order, without gaps
};

struct LayoutRequest {
  const Blueprint* blueprint = nullptr;
  const Checkpoint* checkpoint = nullptr;                      // its layout is kept where a weight has several; null: the first
  at::ScalarType dtype = at::kFloat;                           // of everything that is floating point
  std::function<bool(const SlotSpec&)> skip_weight = nullptr;  // slots whose weight is written otherwise
  std::function<bool(const SlotSpec&)> write_tied = nullptr;   // tied slots whose weight has become its own; default: none
};

// The tensors of a file with all weights of a model, embeddings first, then block by block. Error(Internal) when sources do not cover a file tensor exactly.
std::vector<FileTensor> file_layout(const LayoutRequest& request);

}  // namespace tenon::host
