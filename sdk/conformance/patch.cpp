// Checks of patches, on the toy model.
#include <ATen/core/grad_mode.h>

#include <set>

#include "quantizer_kit.h"
#include "tenon/json.h"
#include "toy.h"

namespace tenon::conformance {

namespace {

constexpr double kSame = 2e-4;  // as for architectures

std::vector<Value> settings(Context& c) {
  std::vector<Value> all = c.examples();
  if (all.empty()) all.push_back(Value::table());
  return all;
}

std::string description(const Blueprint& b) {
  std::string text = concat(b.model_type, b.vocab_size, " ", b.hidden_size, " ", b.context_length, " ", b.loss_chunk_tokens, " ",
                            b.cache_elements_per_token, " ");
  for (const auto& cost : b.block_activations) text += concat(cost.compute, "+", cost.float32, "+", cost.scores, " ");
  for (const auto& stack : b.stacks) text += concat(stack.path, stack.count, " ");
  for (const auto& slot : b.slots) {
    text += concat(slot.path, slot.out, "x", slot.in, slot.bias, slot.tied_to, c10::toString(slot.dtype), " ");
    for (const auto& source : slot.sources)
      for (const auto& piece : source.pieces) text += concat(piece.tensor, piece.start, ":", piece.length, " ");
  }
  for (const auto& tensor : b.tensors) text += concat(tensor.path, shape_text(tensor.shape), c10::toString(tensor.dtype), " ");
  return text;
}

std::string description(const Seams& seams) {
  std::string text;
  seams.for_each([&](const auto& seam) {
    if (seam.is_set())
      for (const auto& who : seam.chain()) text += seam.name() + " " + who + "; ";
  });
  return text;
}

// What a patch did at one of its moments, and what it says it did.
struct Moment {
  std::string name;
  bool says = false, changed = false, can_tell = true;
};

struct Patched {
  std::unique_ptr<Patch> patch;
  ToyModel toy;
  std::vector<Moment> moments;
  at::Tensor logits(const at::Tensor& ids) { return run_logits(*toy.model, {.ids = ids}); }
};

// In the host's order: config, blueprint, seams, weights, model.
Patched apply(Context& c, const Value& options, bool trainable = false) {
  Patched p;
  p.patch = c.provider(&Registrar::patches).make(options);
  expect(p.patch != nullptr, "make returned nothing");
  const ToyArchitecture architecture;
  Value config = small_config("toy");
  const Value config_before = config;
  const bool on_config = p.patch->on_config(config);
  p.moments.push_back({"on_config", on_config, !(config == config_before)});
  Blueprint blueprint = architecture.blueprint(config);
  const std::string blueprint_before = description(blueprint);
  const bool on_blueprint = p.patch->on_blueprint(blueprint);
  p.moments.push_back({"on_blueprint", on_blueprint, description(blueprint) != blueprint_before});
  p.toy.parts = std::make_unique<KitParts>(std::move(blueprint));
  p.toy.model = architecture.build(config, *p.toy.parts);
  const std::string seams_before = description(p.toy.model->seams());
  const bool on_seams = p.patch->on_seams(p.toy.model->seams());
  p.moments.push_back({"on_seams", on_seams, description(p.toy.model->seams()) != seams_before});
  p.toy.parts->fill(c.seed(), trainable);
  p.moments.push_back({"on_model", p.patch->on_model(*p.toy.model), false, false});
  return p;
}

void for_each_patched(Context& c, const std::function<void(Patched&, const Value&)>& body, bool trainable = false) {
  for (const Value& options : settings(c)) {
    const std::string label = options.as_table().empty() ? "defaults" : to_json(options);
    try {
      Patched p = apply(c, options, trainable);
      body(p, options);
    } catch (const Failed& failure) {
      failed(label, ": ", failure.text);
    } catch (const std::exception& error) {
      failed(label, ": ", error.what());
    }
  }
}

int64_t vocab_of(Patched& p) { return p.toy.model->blueprint().vocab_size; }

void check_calls(Context& c) {
  at::NoGradGuard no_grad;
  for_each_patched(c, [&](Patched& p, const Value&) {
    const at::Tensor logits = p.logits(random_ids(2, 12, vocab_of(p), c.seed()));
    expect(logits.sizes() == at::IntArrayRef({2, 12, vocab_of(p)}), "with the patch, logits are ", shape_text(logits.sizes()));
    expect(all_finite(logits), "with the patch, logits are not finite");
  });
}

void check_claims(Context& c) {
  for_each_patched(c, [&](Patched& p, const Value&) {
    for (const Moment& moment : p.moments) {
      if (!moment.can_tell) continue;
      expect(!moment.says || moment.changed, moment.name, "() returned true and changed nothing");
      expect(moment.says || !moment.changed, moment.name, "() changed something and returned false");
    }
  });
}

void check_repeatable(Context& c) {
  at::NoGradGuard no_grad;
  for_each_patched(c, [&](Patched& p, const Value& options) {
    const at::Tensor ids = random_ids(2, 12, vocab_of(p), c.seed());
    const at::Tensor first = p.logits(ids);
    expect(same_bytes(p.logits(ids), first), "the same batch twice gives other logits");
    expect(same_bytes(apply(c, options).logits(ids), first), "a second patch of the same options on a second model gives other logits");
  });
}

void check_cache(Context& c) {
  at::NoGradGuard no_grad;
  for_each_patched(c, [&](Patched& p, const Value&) {
    const at::Tensor ids = random_ids(1, 12, vocab_of(p), c.seed());
    const at::Tensor whole = p.logits(ids);
    const auto cache = p.toy.model->make_cache(1, 12);
    run_logits(*p.toy.model, {.ids = ids.narrow(1, 0, 6)}, cache.get());
    for (int64_t i = 6; i < 12; ++i) {
      const at::Tensor one = run_logits(*p.toy.model, {.ids = ids.narrow(1, i, 1)}, cache.get());
      const double off = relative_max(one, whole.narrow(1, i, 1));
      expect(off <= kSame, "with a cache, token ", i, " differs from a pass without one by ", off);
    }
  });
}

void check_causal(Context& c) {
  at::NoGradGuard no_grad;
  for_each_patched(c, [&](Patched& p, const Value&) {
    const at::Tensor ids = random_ids(1, 12, vocab_of(p), c.seed());
    at::Tensor other = ids.clone();
    other.narrow(1, 8, 4).add_(1).remainder_(vocab_of(p));
    const double off = relative_max(p.logits(other).narrow(1, 0, 8), p.logits(ids).narrow(1, 0, 8));
    expect(off <= kSame, "changing tokens 8 to 11 changes the logits before them by ", off);
  });
}

void check_gradient(Context& c) {
  for_each_patched(
      c,
      [&](Patched& p, const Value&) {
        const at::Tensor hidden = run_hidden(*p.toy.model, {.ids = random_ids(2, 12, vocab_of(p), c.seed())});
        const at::Tensor targets = random_ids(1, 24, vocab_of(p), c.seed() + 1).view({-1});
        p.toy.model->token_logprobs(hidden.reshape({24, -1}), targets).sum().neg().backward();
        for (const auto& [name, leaf] : p.toy.parts->leaves())
          expect(leaf.grad().defined() && all_finite(leaf.grad()), "with the patch, no finite gradient reaches '", name, "'");
      },
      true);
}

}  // namespace

std::vector<Check> patch_checks() {
  constexpr const char* kBase = "patch.calls";
  return {
      {kBase, 1, "load.names options.defaults", "The least a patch must do: let a usual decoder run.", check_calls},
      {"patch.claims", 1, kBase, "The host reports patches that change nothing: what a patch returns must be what it did.", check_claims},
      {"patch.repeatable", 1, kBase, "A patch that remembers what ran before makes runs irreproducible.", check_repeatable},
      {"patch.cache", 1, kBase, "Generation runs with a cache: the patched model must write what a full pass would.", check_cache},
      {"patch.causal", 1, kBase, "A patch must not let a language model see the future.", check_causal},
      {"patch.gradient", 1, kBase, "The patched model must still train.", check_gradient},
  };
}

}  // namespace tenon::conformance
