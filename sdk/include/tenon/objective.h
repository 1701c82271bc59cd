#pragma once
// An objective is what training minimises. It sees batches of tokens and asks the context for log-probabilities; the host owns
// the loop, gradient accumulation, checkpointing and the optimizer.
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tenon/export.h"
#include "tenon/media.h"
#include "tenon/model.h"
#include "tenon/value.h"

namespace tenon {

// One training example after tokenization. labels[i] is the token to be predicted *at* position i (equal to ids[i]) or kIgnore;
// labels carry the mask, padding is by length: no token id is special to training.
inline constexpr int64_t kIgnore = -100;
struct Sample {
  std::vector<int64_t> ids, labels;
  std::string origin = {};         // "train.jsonl:12", for messages
  std::vector<Medium> media = {};  // in the order of their tokens
};

struct TrainBatch {
  Batch input;        // ids, segments, positions, media
  at::Tensor labels;  // [B, T] int64, as Sample::labels; kIgnore on padding and at the first token of each segment
};

struct TokenLogprobs {
  at::Tensor logprobs;  // [N] float32: one per trained token, row by row; differentiable
  at::Tensor row;       // [N] int64: which sequence of the batch
};

class TENON_API ObjectiveContext {
 public:
  virtual ~ObjectiveContext();
  virtual TokenLogprobs token_logprobs(const TrainBatch& batch) = 0;
  // The same without gradients and with every adapter switched off: the reference model of preference objectives.
  virtual TokenLogprobs reference_logprobs(const TrainBatch& batch) = 0;
};

struct ObjectiveResult {
  at::Tensor loss_sum;                    // scalar float32, differentiable; the step's loss is the sum of loss_sum over the sum of weight
  double weight = 0;                      // trained tokens (or pairs) in this batch
  std::map<std::string, double> metrics;  // weighted sums, divided by `weight` in the log
};

class TENON_API Objective {
 public:
  virtual ~Objective();
  // The kind of samples it needs: "tokens" (labelled sequences) or "pairs" (chosen and rejected, in neighbouring rows).
  virtual std::string sample_kind() const { return "tokens"; }
  virtual ObjectiveResult step(ObjectiveContext& context, const TrainBatch& batch) = 0;
};

}  // namespace tenon
