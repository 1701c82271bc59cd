#pragma once
// For tests: a text model of a few lines, in place of what another plugin provides. Tests that want more of it derive from it.
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tenon/architecture.h"
#include "tenon/backbone.h"
#include "tenon/error.h"

namespace tenon::testing {

inline constexpr int64_t kStubVocab = 11, kStubWidth = 6;

// One block that doubles the hidden state: logits tell every token by itself.
class StubText : public Model {
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

 protected:
  Parts& parts_;
  Seams seams_;
};

// A slot of one weight; block -1: of no block.
inline SlotSpec& add_slot(Blueprint& b, const std::string& path, int64_t out, int64_t in, int64_t block, SlotKind kind = SlotKind::Linear) {
  SlotSpec slot;
  slot.path = path, slot.out = out, slot.in = in, slot.kind = kind, slot.stack = block < 0 ? -1 : 0, slot.block = block;
  slot.sources = {Source::rename(path + ".weight")};
  b.slots.push_back(std::move(slot));
  return b.slots.back();
}

inline Blueprint stub_blueprint(const std::string& model_type = "stub", int64_t width = kStubWidth) {
  Blueprint b;
  b.model_type = model_type;
  b.vocab_size = kStubVocab, b.hidden_size = width, b.context_length = 32;
  b.stacks = {{"model.layers", 1}};
  b.block_activations = {{}};
  add_slot(b, "model.embed_tokens", kStubVocab, width, -1, SlotKind::Embedding);
  add_slot(b, "model.layers.0.up", width, width, 0);
  add_slot(b, "lm_head", kStubVocab, width, -1);
  return b;
}

// The one architecture that there is.
template <class Text = StubText>
class StubBackbones final : public Backbones {
 public:
  using Write = std::function<Blueprint(const Value& config)>;
  explicit StubBackbones(
      std::string model_type = "stub", Write write = [](const Value&) { return stub_blueprint(); })
      : model_type_(std::move(model_type)), write_(std::move(write)) {}

  std::unique_ptr<Architecture> make(const std::string& model_type) override {
    if (model_type != model_type_) fail(ErrorCode::Plugin, "there is no architecture '", model_type, "'");
    return std::make_unique<Stub>(write_);
  }

 private:
  class Stub final : public Architecture {
   public:
    explicit Stub(Write write) : write_(std::move(write)) {}
    Blueprint blueprint(const Value& config) const override { return write_(config); }
    std::unique_ptr<Model> build(const Value&, Parts& parts) const override { return std::make_unique<Text>(parts); }

   private:
    Write write_;
  };
  std::string model_type_;
  Write write_;
};

}  // namespace tenon::testing
