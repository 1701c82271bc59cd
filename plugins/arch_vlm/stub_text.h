#pragma once
// For tests: a text model of a few lines, in place of what another plugin provides.
#include "tenon/architecture.h"

namespace tenon::testing {

using namespace tenon::testing;

inline constexpr int64_t kStubVocab = 11, kStubWidth = 6;

// One block that doubles the hidden state: logits tell every token by itself.
class StubText final : public Model {
 public:
  explicit StubText(Parts& parts) : parts_(parts) {}
  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return seams_; }
  State begin(const Batch& batch, Cache*) override {
    State state;
    state.hidden = parts_.slot("model.embed_tokens").rows(batch.ids, at::kFloat);
    return state;
  }
  void run_block(int, int64_t, State& state) override { state.hidden = parts_.slot("model.layers.0.up").linear(state.hidden); }
  at::Tensor finish(State& state) override { return state.hidden; }
  at::Tensor logits(const at::Tensor& hidden) override { return parts_.slot("lm_head").linear(hidden); }
  at::Tensor token_logprobs(const at::Tensor&, const at::Tensor&) override { return {}; }
  std::unique_ptr<Cache> make_cache(int64_t, int64_t) override { return nullptr; }

 private:
  Parts& parts_;
  Seams seams_;
};

class StubArchitecture final : public Architecture {
 public:
  Blueprint blueprint(const Value&) const override {
    Blueprint b;
    b.model_type = "stub";
    b.vocab_size = kStubVocab, b.hidden_size = kStubWidth, b.context_length = 32;
    b.stacks = {{"model.layers", 1}};
    b.block_activations = {{}};
    auto add = [&](const char* path, int64_t out, int64_t in, SlotKind kind, int stack) {
      SlotSpec slot;
      slot.path = path, slot.out = out, slot.in = in, slot.kind = kind, slot.stack = stack, slot.block = stack;
      slot.sources = {Source::rename(concat(path, ".weight"))};
      b.slots.push_back(slot);
    };
    add("model.embed_tokens", kStubVocab, kStubWidth, SlotKind::Embedding, -1);
    add("model.layers.0.up", kStubWidth, kStubWidth, SlotKind::Linear, 0);
    add("lm_head", kStubVocab, kStubWidth, SlotKind::Linear, -1);
    return b;
  }
  std::unique_ptr<Model> build(const Value&, Parts& parts) const override { return std::make_unique<StubText>(parts); }
};

struct StubBackbones final : Backbones {
  std::unique_ptr<Architecture> make(const std::string& model_type) override {
    if (model_type != "stub") fail(ErrorCode::Plugin, "there is no architecture '", model_type, "'");
    return std::make_unique<StubArchitecture>();
  }
};

}  // namespace tenon::testing
