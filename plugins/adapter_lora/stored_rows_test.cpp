// Embeddings and heads that an adapter's file brings along. What PEFT writes is read in tests/parity/test_stored_rows.py.
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>

#include <map>

#include "lora.h"
#include "support/errors.h"

namespace tenon::lora {
namespace {

using testing::contains;
using testing::error_of;

constexpr int64_t kRows = 9, kWidth = 4;
const std::string kEmbedding = "base_model.model.model.embed_tokens", kHead = "base_model.model.lm_head";

class Plain final : public Filler {
 public:
  explicit Plain(at::Tensor weight) : weight_(std::move(weight)) {}
  std::string describe() const override { return "plain"; }
  at::Tensor linear(const at::Tensor& x) override { return at::linear(x, weight_); }
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override { return at::embedding(weight_, ids).to(dtype); }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
    return weight_.narrow(0, first, last - first).to(dtype);
  }

 private:
  at::Tensor weight_;
};

struct File final : TensorSource {
  std::map<std::string, at::Tensor> tensors;
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : tensors) all.push_back(name);
    return all;
  }
  bool has(const std::string& name) const override { return tensors.count(name) > 0; }
  TensorSpec spec(const std::string& name) const override { return {name, tensors.at(name).sizes().vec(), tensors.at(name).scalar_type()}; }
  at::Tensor read(const std::string& name) const override { return tensors.at(name); }
};

// An adapter continued from `file`, around an embedding, a layer and a head.
struct Continued {
  Blueprint blueprint;
  std::unique_ptr<Lora> adapter;
  std::map<std::string, std::shared_ptr<Filler>> fillers;

  Continued(const File& file, std::vector<std::string> targets, bool tied, const at::Tensor& base) {
    blueprint.model_type = "llama";
    const auto slot = [](const char* path, int64_t out, SlotKind kind, SlotRole role) {
      SlotSpec s;
      s.path = path, s.out = out, s.in = kWidth, s.kind = kind, s.role = role;
      return s;
    };
    blueprint.slots = {slot("model.embed_tokens", kRows, SlotKind::Embedding, SlotRole::InputEmbedding),
                       slot("model.layers.0.q_proj", kWidth, SlotKind::Linear, SlotRole::Inner),
                       slot("lm_head", kRows, SlotKind::Linear, SlotRole::OutputHead)};
    if (tied) blueprint.slots[2].tied_to = "model.embed_tokens";
    LoraOptions options;
    options.stored_tensors = Value(file.names());
    adapter = std::make_unique<Lora>(options);
    adapter->configure(Value(Value::Table{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 2}, {"target_modules", Value(targets)}}));
    const auto shared = std::make_shared<Plain>(base);
    for (const auto& path : adapter->targets(blueprint)) {
      const SlotSpec& spec = *blueprint.find_slot(path);
      const auto own = spec.out == kWidth ? std::make_shared<Plain>(at::randn({kWidth, kWidth})) : shared;
      fillers[path] = adapter->wrap(spec, own, at::kCPU, /*trainable=*/true);
    }
    adapter->load(file);
  }
};

File with_update(const std::string& path, bool is_embedding = false) {
  File file;
  const int64_t out = path == kEmbedding || path == kHead ? kRows : kWidth;
  file.tensors[path + (is_embedding ? ".lora_embedding_A" : ".lora_A.weight")] = at::randn({2, is_embedding ? out : kWidth});
  file.tensors[path + (is_embedding ? ".lora_embedding_B" : ".lora_B.weight")] = at::randn({is_embedding ? kWidth : out, 2});
  return file;
}

TEST_CASE("whole rows beside the updates take the base's place, adapter on or off, frozen, and are saved again") {
  at::manual_seed(3);
  for (const bool tied : {false, true}) {
    const at::Tensor base = at::randn({kRows, kWidth}), rows = at::randn({kRows, kWidth}), x = at::randn({3, kWidth});
    const at::Tensor head = tied ? rows : at::randn({kRows, kWidth}), ids = at::tensor({1, 8});
    File file = with_update("base_model.model.model.layers.0.q_proj");
    file.tensors[kEmbedding + ".weight"] = rows, file.tensors[kHead + ".weight"] = head;
    Continued c(file, {"q_proj"}, tied, base);
    REQUIRE(c.fillers.size() == 3);
    for (const bool enabled : {true, false}) {
      c.adapter->set_enabled(enabled);
      CHECK(c.fillers["model.embed_tokens"]->rows(ids, at::kFloat).equal(at::embedding(rows, ids)));
      CHECK(c.fillers["lm_head"]->linear(x).allclose(at::linear(x, head)));
    }
    CHECK(c.adapter->merge(c.blueprint.slots[0], rows).equal(rows));
    CHECK(c.adapter->parameters(c.blueprint.slots[0]).empty());
    std::set<std::string> names;
    for (const auto& leaf : c.adapter->state()) {
      names.insert(leaf.name);
      CHECK(leaf.tensor.requires_grad() == contains(leaf.name, "lora_"));
    }
    std::set<std::string> expected;
    for (const auto& name : file.names()) expected.insert(name);
    CHECK(names == expected);
  }
}

TEST_CASE("a copy of a targeted embedding that differs is its base, one that does not leaves everything as it was") {
  at::manual_seed(4);
  const at::Tensor base = at::randn({kRows, kWidth}), rows = at::randn({kRows, kWidth}), ids = at::tensor({0, 7}),
                   x = at::randn({3, kWidth});
  File file = with_update(kEmbedding, true);
  const at::Tensor change =
      at::linear(at::embedding(file.tensors[kEmbedding + ".lora_embedding_A"].t(), ids), file.tensors[kEmbedding + ".lora_embedding_B"]);
  for (const at::Tensor& copy : {rows, base}) {
    file.tensors[kEmbedding + ".base_layer.weight"] = copy;
    Continued c(file, {"embed_tokens"}, /*tied=*/true, base);
    CHECK(c.fillers["model.embed_tokens"]->rows(ids, at::kFloat).allclose(at::embedding(copy, ids) + change));
    CHECK(c.fillers["lm_head"]->linear(x).allclose(at::linear(x, copy)));
    c.adapter->set_enabled(false);
    CHECK(c.fillers["model.embed_tokens"]->rows(ids, at::kFloat).equal(at::embedding(copy, ids)));
    const auto state = c.adapter->state();
    const bool is_saved =
        std::any_of(state.begin(), state.end(), [&](const auto& leaf) { return leaf.name == kEmbedding + ".base_layer.weight"; });
    CHECK(is_saved == copy.equal(rows));
  }
}

TEST_CASE("rows of another vocabulary, and rows that contradict each other, are refused") {
  at::manual_seed(5);
  const at::Tensor base = at::randn({kRows, kWidth});
  File file = with_update("base_model.model.model.layers.0.q_proj");
  file.tensors[kEmbedding + ".weight"] = at::randn({kRows + 2, kWidth});
  CHECK(contains(error_of([&] { Continued(file, {"q_proj"}, false, base); }),
                 "embed_tokens.weight' is [11, 4], the model's weight is [9, 4]: it was saved with another vocabulary"));
  file.tensors[kEmbedding + ".weight"] = at::randn({kRows, kWidth}), file.tensors[kHead + ".weight"] = at::randn({kRows, kWidth});
  CHECK(contains(error_of([&] { Continued(file, {"q_proj"}, true, base); }),
                 "is another weight than that of the embedding, with which it is tied"));
  CHECK(error_of([&] { Continued(file, {"q_proj"}, false, base); }) == "no error");
}

}  // namespace
}  // namespace tenon::lora
