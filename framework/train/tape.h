#pragma once
// One pass through a model that can go backwards. The host cuts the graph at every block: what a block got is a leaf, so each block's graph is
// kept or rebuilt by itself, and is gone as soon as its gradients are known.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tenon/model.h"

namespace tenon::host {

// Which blocks (flat index over all stacks) run without a graph and again in backward. The second run draws the same random numbers (dropout).
class RecomputeList {
 public:
  RecomputeList() = default;
  explicit RecomputeList(const std::vector<int64_t>& blocks);
  bool contains(int64_t block) const { return static_cast<size_t>(block) < flags_.size() && flags_[static_cast<size_t>(block)]; }

 private:
  std::vector<bool> flags_;
};

// Use: hidden = tape.forward(batch); loss from hidden; backward of the loss; tape.backward(). Gradients are added to `.grad` of the model's leaves.
// With grad mode off forward() just runs and backward() does nothing. One tape is one pass; several may be open at once.
class Tape {
 public:
  Tape(Model& model, const RecomputeList& recompute) : model_(model), recompute_(recompute) {}

  // -> [B, T, hidden] after the final norm, connected to leaves that backward() continues from.
  at::Tensor forward(const Batch& batch);
  // What the model adds to the mean loss of the batch (Model::auxiliary_loss); undefined: nothing.
  const at::Tensor& auxiliary_loss() const { return auxiliary_loss_; }
  // After the loss has gone backward.
  void backward();

 private:
  // Tensors that carry gradients from one part of the model to the next: made by the part (`made`), handed on as leaves (`leaf`).
  struct Link {
    std::string name;  // "" is the hidden state, others are extras
    at::Tensor made, leaf;
  };
  struct Part {
    int stack = -1;  // -1: begin
    int64_t block = 0;
    bool is_recomputed = false;
    State before;                        // of a recomputed block, holding leaves
    std::vector<at::Tensor> generators;  // states of the generators that the block may draw from
    std::vector<Link> out;
  };
  void run(Part& part, State& state);
  std::vector<Link> cut(State& state, const State* before) const;

  Model& model_;
  const RecomputeList& recompute_;
  std::vector<Part> parts_;
  at::Tensor auxiliary_loss_;
};

}  // namespace tenon::host
