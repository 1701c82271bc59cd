// Checks of architectures: what they say about a model as data, and how a small random one computes.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <set>

#include "quantizer_kit.h"
#include "toy.h"

namespace tenon::conformance {

namespace {

// float32 sums in another order, over a few hundred terms and a few layers; what these checks look for is far larger.
constexpr double kSame = 2e-4;

struct Sample {
  std::string label;
  Value config;
};

// What the plugin gives, else a usual config of its model_type.
std::vector<Sample> samples(Context& c) {
  std::vector<Sample> all;
  for (Value config : c.examples()) {
    if (!config.find("model_type")) config.set("model_type", c.provided().name);
    all.push_back({concat("example ", all.size() + 1), std::move(config)});
  }
  if (all.empty()) all.push_back({"a usual small config.json", small_config(c.provided().name)});
  return all;
}

std::unique_ptr<Architecture> architecture_of(Context& c) {
  auto architecture = c.provider(&Registrar::architectures).make(Value::table());
  if (c.subject().backbones) architecture->use(c.subject().backbones());
  return architecture;
}

// Blocks of a model of several parts that hand on the very state they got: text alone passes them by, as it does a tower, or a layer that looks at
// pictures.
std::set<std::pair<int, int64_t>> blocks_beside_text(Model& model, const Batch& batch) {
  const Blueprint& b = model.blueprint();
  std::set<std::pair<int, int64_t>> beside;
  if (std::all_of(b.slots.begin(), b.slots.end(), [](const auto& s) { return s.part.empty(); })) return beside;
  at::NoGradGuard no_grad;
  State state = model.begin(batch, nullptr);
  for (size_t s = 0; s < b.stacks.size(); ++s)
    for (int64_t i = 0; i < b.stacks[s].count; ++i) {
      const at::Tensor before = state.hidden;
      model.run_block(static_cast<int>(s), i, state);
      if (state.hidden.is_same(before)) beside.emplace(static_cast<int>(s), i);
    }
  return beside;
}

// Names of leaves that text alone does not run through.
bool is_beside_text(const Blueprint& b, const std::set<std::pair<int, int64_t>>& blocks, const std::string& leaf) {
  const auto is_beside = [&](const auto& spec) { return !spec.part.empty() || blocks.count({spec.stack, spec.block}) > 0; };
  return std::any_of(b.slots.begin(), b.slots.end(), [&](const auto& s) { return is_beside(s) && leaf.starts_with(s.path + "."); }) ||
         std::any_of(b.tensors.begin(), b.tensors.end(), [&](const auto& t) { return is_beside(t) && leaf == t.path; });
}

void for_each_sample(Context& c, const std::function<void(const Architecture&, const Value&)>& body) {
  const auto architecture = architecture_of(c);
  for (const Sample& sample : samples(c)) {
    try {
      body(*architecture, sample.config);
    } catch (const Failed& failure) {
      failed(sample.label, ": ", failure.text);
    } catch (const Error& error) {
      failed(sample.label, ": ", error.what());
    }
  }
}

void for_each_model(Context& c, bool trainable, const std::function<void(ToyModel&)>& body) {
  for_each_sample(c, [&](const Architecture& architecture, const Value& config) {
    ToyModel toy = make_model(architecture, config, c.seed(), trainable);
    body(toy);
  });
}

void check_calls(Context& c) {
  for_each_model(c, false, [&](ToyModel& toy) {
    at::NoGradGuard no_grad;
    const int64_t vocab = toy.model->blueprint().vocab_size;
    expect(vocab > 0, "blueprint().vocab_size is ", vocab);
    const at::Tensor logits = run_logits(*toy.model, {.ids = random_ids(2, 7, vocab, c.seed())});
    expect(logits.sizes() == at::IntArrayRef({2, 7, vocab}) && logits.scalar_type() == at::kFloat, "logits of ids [2, 7] are ",
           shape_text(logits.sizes()), " ", c10::toString(logits.scalar_type()), ", expected [2, 7, ", vocab, "] Float");
    expect(all_finite(logits), "logits are not finite");
  });
}

void check_blueprint(Context& c) {
  for_each_sample(c, [&](const Architecture& architecture, const Value& config) {
    const Blueprint b = architecture.blueprint(config);
    std::set<std::string> paths;
    std::vector<std::set<int64_t>> blocks(b.stacks.size());
    auto place = [&](const std::string& path, int stack, int64_t block) {
      expect(paths.insert(path).second, "'", path, "' is there twice");
      if (stack < 0) return;
      expect(static_cast<size_t>(stack) < b.stacks.size(), "'", path, "' is in stack ", stack, ", there are ", b.stacks.size());
      expect(block >= 0 && block < b.stacks[static_cast<size_t>(stack)].count, "'", path, "' is in block ", block, " of ",
             b.stacks[static_cast<size_t>(stack)].count);
      blocks[static_cast<size_t>(stack)].insert(block);
    };
    expect(!b.slots.empty(), "the blueprint has no slots");
    for (const auto& slot : b.slots) {
      place(slot.path, slot.stack, slot.block);
      expect(slot.out > 0 && slot.in > 0 && slot.count > 0, "'", slot.path, "' is [", slot.out, ", ", slot.in, "]");
    }
    for (const auto& tensor : b.tensors) place(tensor.path, tensor.stack, tensor.block);
    for (size_t s = 0; s < blocks.size(); ++s)
      expect(static_cast<int64_t>(blocks[s].size()) == b.stacks[s].count, "stack '", b.stacks[s].path, "' counts ", b.stacks[s].count,
             " blocks, weights are in ", blocks[s].size());
    expect(b.block_activations.size() == b.stacks.size(), "block_activations has ", b.block_activations.size(), " rows for ",
           b.stacks.size(), " stacks: the plan needs one each");
    for (const auto& slot : b.slots)
      if (!slot.tied_to.empty()) {
        const SlotSpec* other = b.find_slot(slot.tied_to);
        expect(other && other->tied_to.empty(), "'", slot.path, "' is tied to '", slot.tied_to, "', which is no slot with a weight");
        expect(other->out == slot.out && other->in == slot.in, "'", slot.path, "' is tied to a weight of another shape");
      }
    // Twice the same, as the plan and the run each ask.
    const Blueprint again = architecture.blueprint(config);
    expect(again.slots.size() == b.slots.size() && again.tensors.size() == b.tensors.size(), "a second blueprint has other slots");
  });
}

void check_coverage(Context& c) {
  for_each_sample(c, [&](const Architecture& architecture, const Value& config) {
    const Blueprint b = architecture.blueprint(config);
    std::set<std::string> taken;  // whole file tensors of first sources
    auto look = [&](const std::string& path, const std::vector<Source>& sources) {
      expect(!sources.empty(), "'", path, "' has no source: no file tensor fills it");
      for (const Source& source : sources) {
        expect(!source.pieces.empty(), "a source of '", path, "' has no pieces");
        for (const auto& piece : source.pieces) expect(!piece.tensor.empty(), "a source of '", path, "' names no tensor");
      }
      for (const auto& piece : sources.front().pieces)
        if (piece.start == 0 && piece.length < 0)
          expect(taken.insert(piece.tensor).second, "file tensor '", piece.tensor, "' fills two places, the second is '", path, "'");
    };
    for (const auto& slot : b.slots) {
      if (!slot.tied_to.empty()) continue;
      look(slot.path, slot.sources);
      if (slot.bias) look(slot.path + ".bias", slot.bias_sources);
    }
    for (const auto& tensor : b.tensors) look(tensor.path, tensor.sources);
  });
}

void check_config_errors(Context& c) {
  for_each_sample(c, [&](const Architecture& architecture, const Value& config) {
    for (const auto& [key, value] : config.as_table()) {
      for (const Value& wrong : {Value("a word"), Value(-1), Value(nullptr), Value::list()}) {
        Value changed = config;
        changed.set(key, wrong);
        try {
          architecture.blueprint(changed);
        } catch (const Error& error) {
          expect(std::string(error.what()).find(key) != std::string::npos, "with a damaged '", key, "' it says '", error.what(),
                 "', which does not name the key");
        } catch (const std::exception& error) {
          failed("with a damaged '", key, "' it threw something else than tenon::Error: ", error.what());
        }
      }
    }
  });
}

void check_causal(Context& c) {
  for_each_model(c, false, [&](ToyModel& toy) {
    at::NoGradGuard no_grad;
    const int64_t vocab = toy.model->blueprint().vocab_size;
    const at::Tensor ids = random_ids(2, 9, vocab, c.seed());
    at::Tensor other = ids.clone();
    other.narrow(1, 5, 4).add_(1).remainder_(vocab);
    const at::Tensor a = run_logits(*toy.model, {.ids = ids}).narrow(1, 0, 5), b = run_logits(*toy.model, {.ids = other}).narrow(1, 0, 5);
    expect(relative_max(b, a) <= kSame, "changing tokens 5 to 8 changes the logits before them by ", relative_max(b, a), " of their size");
  });
}

void check_cache(Context& c) {
  for_each_model(c, false, [&](ToyModel& toy) {
    at::NoGradGuard no_grad;
    const at::Tensor ids = random_ids(2, 12, toy.model->blueprint().vocab_size, c.seed());
    const at::Tensor whole = run_logits(*toy.model, {.ids = ids});
    const auto cache = toy.model->make_cache(2, 16);
    expect(cache != nullptr, "make_cache returned nothing");
    auto compare = [&](int64_t first, int64_t count, const char* what) {
      expect(cache->length() == first, "after ", first, " tokens the cache holds ", cache->length());
      const at::Tensor part = run_logits(*toy.model, {.ids = ids.narrow(1, first, count)}, cache.get());
      const double off = relative_max(part, whole.narrow(1, first, count));
      expect(off <= kSame, what, ": tokens ", first, " to ", first + count - 1, " differ from a pass without a cache by ", off);
    };
    compare(0, 5, "the prompt");
    compare(5, 3, "a piece of three");
    for (int64_t i = 8; i < 12; ++i) compare(i, 1, "one token at a time");
    cache->truncate(7);
    compare(7, 2, "after truncate(7)");
  });
}

at::Tensor segments_of(int64_t left, int64_t real, int64_t right) {
  const auto options = at::TensorOptions().dtype(at::kLong);
  return at::cat({at::zeros({1, left}, options), at::ones({1, real}, options), at::zeros({1, right}, options)}, 1);
}

void check_padding(Context& c) {
  for_each_model(c, false, [&](ToyModel& toy) {
    at::NoGradGuard no_grad;
    const int64_t vocab = toy.model->blueprint().vocab_size;
    const at::Tensor ids = random_ids(1, 6, vocab, c.seed()), pad = random_ids(1, 3, vocab, c.seed() + 1);
    const at::Tensor bare = run_logits(*toy.model, {.ids = ids});
    const at::Tensor right = run_logits(*toy.model, {.ids = at::cat({ids, pad}, 1), .segments = segments_of(0, 6, 3)}).narrow(1, 0, 6);
    expect(relative_max(right, bare) <= kSame, "padding on the right changes the logits by ", relative_max(right, bare));
    const at::Tensor left = run_logits(*toy.model, {.ids = at::cat({pad, ids}, 1), .segments = segments_of(3, 6, 0)});
    expect(all_finite(left), "padding on the left makes numbers that are not finite");
    expect(relative_max(left.narrow(1, 3, 6), bare) <= kSame, "padding on the left changes the logits by ",
           relative_max(left.narrow(1, 3, 6), bare));
  });
}

void check_packing(Context& c) {
  for_each_model(c, false, [&](ToyModel& toy) {
    at::NoGradGuard no_grad;
    const int64_t vocab = toy.model->blueprint().vocab_size;
    const at::Tensor a = random_ids(1, 5, vocab, c.seed()), b = random_ids(1, 7, vocab, c.seed() + 1);
    const auto options = at::TensorOptions().dtype(at::kLong);
    const at::Tensor packed = run_logits(
        *toy.model, {.ids = at::cat({a, b}, 1), .segments = at::cat({at::full({1, 5}, 1, options), at::full({1, 7}, 2, options)}, 1)});
    const double first = relative_max(packed.narrow(1, 0, 5), run_logits(*toy.model, {.ids = a})),
                 second = relative_max(packed.narrow(1, 5, 7), run_logits(*toy.model, {.ids = b}));
    expect(first <= kSame && second <= kSame, "two documents packed into one row differ from each alone by ", first, " and ", second);
  });
}

void check_batch(Context& c) {
  for_each_model(c, false, [&](ToyModel& toy) {
    at::NoGradGuard no_grad;
    const at::Tensor ids = random_ids(3, 8, toy.model->blueprint().vocab_size, c.seed());
    const at::Tensor together = run_logits(*toy.model, {.ids = ids});
    for (int64_t i = 0; i < 3; ++i) {
      const double off = relative_max(together.narrow(0, i, 1), run_logits(*toy.model, {.ids = ids.narrow(0, i, 1)}));
      expect(off <= kSame, "row ", i, " of a batch differs from the same row alone by ", off);
    }
  });
}

void check_gradient(Context& c) {
  for_each_model(c, true, [&](ToyModel& toy) {
    const int64_t vocab = toy.model->blueprint().vocab_size;
    // Every token once, so that every row of the embedding is used.
    const at::Tensor ids = random_ids(2, 16, vocab, c.seed());
    const at::Tensor hidden = run_hidden(*toy.model, {.ids = ids});
    const at::Tensor logprobs =
        toy.model->token_logprobs(hidden.reshape({-1, hidden.size(-1)}), random_ids(1, 32, vocab, c.seed() + 1).view({-1}));
    expect(logprobs.sizes() == at::IntArrayRef({32}) && logprobs.scalar_type() == at::kFloat, "token_logprobs of 32 targets are ",
           shape_text(logprobs.sizes()), " ", c10::toString(logprobs.scalar_type()));
    logprobs.sum().neg().backward();
    const auto beside = blocks_beside_text(*toy.model, {.ids = ids});
    for (const auto& [name, leaf] : toy.parts->leaves()) {
      if (is_beside_text(toy.parts->blueprint(), beside, name)) continue;
      expect(leaf.grad().defined(), "no gradient reaches '", name, "'");
      expect(all_finite(leaf.grad()), "the gradient of '", name, "' is not finite");
      // A bias of keys moves all scores of a query alike: softmax does not see it.
      if (!name.ends_with("k_proj.bias"))
        expect(leaf.grad().abs().max().item<float>() > 0, "the gradient of '", name, "' is zero everywhere");
    }
  });
}

void check_logprobs(Context& c) {
  for_each_model(c, false, [&](ToyModel& toy) {
    at::NoGradGuard no_grad;
    const int64_t vocab = toy.model->blueprint().vocab_size;
    const at::Tensor hidden = run_hidden(*toy.model, {.ids = random_ids(1, 10, vocab, c.seed())});
    const at::Tensor targets = random_ids(1, 10, vocab, c.seed() + 1).view({-1});
    const at::Tensor flat = hidden.reshape({10, hidden.size(-1)});
    const at::Tensor expected = toy.model->logits(flat).to(at::kDouble).log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1);
    const double off = relative_max(toy.model->token_logprobs(flat, targets), expected);
    expect(off <= kSame, "token_logprobs() differs from log_softmax of logits() by ", off);
  });
}

}  // namespace

std::vector<Check> architecture_checks() {
  constexpr const char* kBase = "architecture.calls";
  return {
      {kBase, 1, "load.names options.defaults", "The least an architecture must do: a blueprint, a model built from it, logits.",
       check_calls},
      {"architecture.blueprint", 1, kBase, "Plan, placement and checkpointing trust the blueprint's numbers.", check_blueprint},
      {"architecture.coverage", 1, kBase, "A weight that no file tensor fills, or two fill, is a model that loads wrong.", check_coverage},
      {"architecture.config_errors", 1, kBase, "A damaged config.json must be an error that names the key, never a wrong model.",
       check_config_errors},
      {"architecture.causal", 1, kBase, "A language model that sees the future trains to a loss of nothing and writes nonsense.",
       check_causal},
      {"architecture.cache", 1, kBase, "Generation runs with a cache: it must write what a full pass would.", check_cache},
      {"architecture.padding", 1, kBase, "Padding fills batches; it must not be seen.", check_padding},
      {"architecture.packing", 1, kBase, "Packed documents must not see each other.", check_packing},
      {"architecture.batch", 1, kBase, "A row's result must not depend on its neighbours.", check_batch},
      {"architecture.gradient", 1, kBase, "A place that no gradient reaches is never trained.", check_gradient},
      {"architecture.logprobs", 1, kBase, "Training minimises what token_logprobs() says: it must be the model's own.", check_logprobs},
  };
}

}  // namespace tenon::conformance
