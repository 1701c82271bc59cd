#pragma once
// A model while it runs. The host owns the loop over blocks: gradient checkpointing, placement, calibration and pipelines
// work on any model because they only call begin, run_block and finish.
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tenon/blueprint.h"
#include "tenon/export.h"
#include "tenon/seams.h"

namespace tenon {

// One batch of sequences of equal length.
struct Batch {
  at::Tensor ids;                           // [B, T] int64
  at::Tensor segments;                      // [B, T] int64: 0 padding, 1, 2, ... packed documents; undefined: all 1
  at::Tensor positions;                     // [axes, B, T] int64; undefined: the model counts within each segment, from the cache's end
  std::map<std::string, at::Tensor> media;  // "pixel_values", ...: what the architecture's processor made
};

// Keys, values and whatever else a model keeps between calls; preallocated. Made by the architecture.
class TENON_API Cache {
 public:
  virtual ~Cache();
  virtual int64_t length() const = 0;  // tokens held
  virtual int64_t capacity() const = 0;
  virtual void truncate(int64_t length) = 0;
};

// What flows through the blocks. `hidden` and those `extras` that require gradients are the differentiable part.
struct State {
  at::Tensor hidden;                  // [B, T, hidden], in the residual dtype
  at::Tensor positions;               // [axes, B, T]
  at::Tensor segments, key_segments;  // [B, T], [B, past + T]; undefined when there is one segment and no padding
  int64_t past = 0;
  std::map<std::string, Rotary> rotary;  // by kind of layer
  Cache* cache = nullptr;
  std::map<std::string, at::Tensor> extras;
};

// dtypes, requested and in effect. Stated in docs/precision.md; shown by `host plan`.
struct Precision {
  at::ScalarType compute = at::kFloat;   // matrix products and activations between them
  at::ScalarType residual = at::kFloat;  // the hidden state between blocks
};

class TENON_API Model {
 public:
  virtual ~Model();

  virtual const Blueprint& blueprint() const = 0;
  virtual Seams& seams() = 0;

  // Embeds the batch. With a cache, positions and keys continue at cache->length().
  virtual State begin(const Batch& batch, Cache* cache) = 0;
  // Runs block i of stack `stack`; stacks run in order, blocks in order.
  virtual void run_block(int stack, int64_t i, State& state) = 0;
  // After the last block: the final norm -> [B, T, hidden], in the compute dtype; with a cache, commits the T new tokens.
  virtual at::Tensor finish(State& state) = 0;

  // After finish: a scalar that training adds to the mean loss of the batch, such as the load balance of experts. Default: undefined, none.
  virtual at::Tensor auxiliary_loss(const State& state);

  // hidden: [..., hidden] as finish gives it -> [..., vocab] float32.
  virtual at::Tensor logits(const at::Tensor& hidden) = 0;
  // hidden: [N, hidden], targets: [N] -> log-probabilities [N] float32, through the loss seam.
  virtual at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) = 0;

  virtual std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) = 0;
};

}  // namespace tenon
