#include "lora.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "product.h"
#include "support/errors.h"
#include "support/memory_file.h"
#include "support/tiny_model.h"

using namespace tenon;
using namespace tenon::lora;
using tenon::testing::error_of;
using tenon::testing::MemoryFile;
using tenon::testing::PlainFiller;

namespace {

// float32 sums of at most a few hundred products of unit size, taken in another order.
constexpr double kClose = 2e-5;

bool close(const at::Tensor& a, const at::Tensor& b, double tolerance = kClose) {
  const double worst = (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
  INFO("largest difference " << worst);
  return a.sizes() == b.sizes() && worst <= tolerance * std::max(1.0, b.detach().abs().max().item<double>());
}

SlotSpec linear_slot(int64_t out, int64_t in, std::string path = "model.layers.0.self_attn.q_proj") {
  SlotSpec slot;
  slot.path = std::move(path);
  slot.out = out;
  slot.in = in;
  slot.role = SlotRole::Inner;
  return slot;
}

SlotSpec embedding_slot(int64_t rows, int64_t width) {
  SlotSpec slot = linear_slot(rows, width, "model.embed_tokens");
  slot.kind = SlotKind::Embedding;
  slot.role = SlotRole::InputEmbedding;
  return slot;
}

// One wrapped layer with random A and B.
struct Wrapped {
  explicit Wrapped(LoraOptions options = {}, int64_t out = 12, int64_t in = 10, bool with_bias = true, bool trainable = true)
      : adapter((options.init_lora_weights = false, options)), slot(linear_slot(out, in)) {
    weight = at::randn({out, in});
    bias = with_bias ? at::randn({out}) : at::Tensor();
    filler = adapter.wrap(slot, std::make_shared<PlainFiller>(weight, bias), at::kCPU, trainable);
    a = adapter.state()[0].tensor;
    b = adapter.state()[1].tensor;
    if (options.use_dora) magnitude = adapter.state()[2].tensor;
  }
  Lora adapter;
  SlotSpec slot;
  at::Tensor weight, bias, a, b, magnitude;
  std::shared_ptr<Filler> filler;
};

LoraOptions options_of(int64_t r, double alpha, double dropout = 0) {
  LoraOptions options;
  options.r = r;
  options.lora_alpha = alpha;
  options.lora_dropout = dropout;
  return options;
}

}  // namespace

TEST_CASE("a wrapped layer computes base plus scaled update, with the gradients of plain autograd") {
  at::manual_seed(1);
  Wrapped w(options_of(4, 6));
  at::Tensor x = at::randn({2, 3, 10}).requires_grad_();
  const at::Tensor seed = at::randn({2, 3, 12});

  at::Tensor a = w.a.detach().clone().requires_grad_(), b = w.b.detach().clone().requires_grad_(), x2 = x.detach().clone().requires_grad_();
  const at::Tensor expected = at::linear(x2, w.weight, w.bias) + at::linear(at::linear(x2, a), b) * 1.5;
  torch::autograd::backward({expected}, {seed});

  const at::Tensor y = w.filler->linear(x);
  torch::autograd::backward({y}, {seed});
  CHECK(close(y, expected));
  CHECK(close(x.grad(), x2.grad()));
  CHECK(close(w.a.grad(), a.grad()));
  CHECK(close(w.b.grad(), b.grad()));

  at::NoGradGuard no_grad;
  CHECK(close(w.filler->linear(x), expected));
}

TEST_CASE("an input without gradients still trains the update") {
  at::manual_seed(2);
  Wrapped w(options_of(4, 4));
  const at::Tensor y = w.filler->linear(at::randn({5, 10}));
  REQUIRE(y.requires_grad());
  torch::autograd::backward({at::sum(y)});
  CHECK(w.a.grad().abs().sum().item<float>() > 0);
  CHECK(w.b.grad().abs().sum().item<float>() > 0);
}

TEST_CASE("bfloat16 inputs are multiplied in bfloat16, gradients stay float32") {
  at::manual_seed(3);
  Wrapped w(options_of(4, 4));
  const at::Tensor x = at::randn({7, 10});
  const at::Tensor expected = w.filler->linear(x);
  at::Tensor narrow = x.to(at::kBFloat16).requires_grad_();
  const at::Tensor y = w.filler->linear(narrow);
  CHECK((y.scalar_type() == at::kBFloat16));
  CHECK(close(y, expected, 0.03));  // three roundings to 8 bits
  torch::autograd::backward({at::sum(y)});
  CHECK((w.a.grad().scalar_type() == at::kFloat));
  CHECK((narrow.grad().scalar_type() == at::kBFloat16));
  // The bfloat16 copies follow the leaves when an optimizer changes them.
  at::NoGradGuard no_grad;
  w.b.zero_();
  CHECK(close(w.filler->linear(narrow), at::linear(x, w.weight, w.bias), 0.03));
}

TEST_CASE("dropout drops inputs of the update alone, alike with and without gradients") {
  at::manual_seed(4);
  Wrapped w(options_of(4, 4, 0.5));
  const at::Tensor x = at::randn({64, 10});
  auto run = [&](bool grad) {
    at::manual_seed(99);
    at::AutoGradMode mode(grad);
    return w.filler->linear(x).detach();
  };
  const at::Tensor plain = run(false);
  w.adapter.set_training(true);
  const at::Tensor dropped = run(false);
  CHECK_FALSE(close(dropped, plain));
  CHECK(close(run(true), dropped));

  // The mask in force, seen through the update of unit vectors: each input is dropped or doubled.
  at::manual_seed(99);
  const at::Tensor seen = drop(x, 0.5);
  CHECK(close(at::linear(x, w.weight, w.bias) + at::linear(at::linear(seen, w.a), w.b), dropped));
  const at::Tensor share = (seen == 0).to(at::kFloat).mean();
  CHECK(share.item<float>() > 0.4);
  CHECK(share.item<float>() < 0.6);
}

TEST_CASE("gradients with dropout are those of the same mask") {
  at::manual_seed(5);
  Wrapped w(options_of(3, 3, 0.25));
  w.adapter.set_training(true);
  at::Tensor x = at::randn({6, 10}).requires_grad_(), x2 = x.detach().clone().requires_grad_();
  at::Tensor a = w.a.detach().clone().requires_grad_(), b = w.b.detach().clone().requires_grad_();
  at::manual_seed(7);
  torch::autograd::backward({at::sum(w.filler->linear(x) * 2)});
  at::manual_seed(7);
  torch::autograd::backward({at::sum((at::linear(x2, w.weight, w.bias) + at::linear(at::linear(drop(x2, 0.25), a), b)) * 2)});
  CHECK(close(x.grad(), x2.grad()));
  CHECK(close(w.a.grad(), a.grad()));
  CHECK(close(w.b.grad(), b.grad()));
}

TEST_CASE("several layers on one input give what each gives alone, wrapped or not") {
  at::manual_seed(6);
  Wrapped q(options_of(4, 8)), v(options_of(2, 8));
  PlainFiller k(at::randn({5, 10}), {});
  const at::Tensor x = at::randn({3, 10});
  for (bool grad : {false, true}) {
    at::AutoGradMode mode(grad);
    Filler* group[] = {q.filler.get(), &k, v.filler.get()};
    const auto outputs = q.filler->linear_many(group, x);
    REQUIRE(outputs.size() == 3);
    for (size_t i = 0; i < 3; ++i) CHECK(close(outputs[i], group[i]->linear(x)));
  }
}

TEST_CASE("switched off, a wrapped layer is its base") {
  at::manual_seed(7);
  Wrapped w(options_of(4, 4));
  const at::Tensor x = at::randn({3, 10});
  w.adapter.set_enabled(false);
  CHECK(close(w.filler->linear(x), at::linear(x, w.weight, w.bias)));
  CHECK(close(w.filler->dense_rows(at::kFloat, 0, 12), w.weight));
  w.adapter.set_enabled(true);
  CHECK_FALSE(close(w.filler->linear(x), at::linear(x, w.weight, w.bias)));
}

TEST_CASE("the merged weight and dense rows compute what the layer computes") {
  at::manual_seed(8);
  for (bool dora : {false, true}) {
    LoraOptions options = options_of(4, 6);
    options.use_dora = dora;
    Wrapped w(options);
    if (dora) {
      at::NoGradGuard no_grad;
      w.magnitude.mul_(1.3);
    }
    const at::Tensor x = at::randn({5, 10}), y = w.filler->linear(x), merged = w.adapter.merge(w.slot, w.weight);
    CHECK(close(at::linear(x, merged, w.bias), y));
    CHECK(close(w.filler->dense_rows(at::kFloat, 3, 9), merged.narrow(0, 3, 6)));
  }
}

TEST_CASE("rank-stabilised updates are scaled by alpha over the root of r") {
  at::manual_seed(9);
  LoraOptions options = options_of(4, 6);
  options.use_rslora = true;
  Wrapped w(options);
  CHECK(close(w.adapter.merge(w.slot, w.weight), w.weight + at::matmul(w.b, w.a) * 3));
}

TEST_CASE("a magnitude is trained beside the direction, whose length counts as a constant") {
  at::manual_seed(10);
  LoraOptions options = options_of(4, 6);
  options.use_dora = true;
  Wrapped w(options);
  REQUIRE(w.magnitude.defined());
  // As made, the magnitude is the length of each row and changes nothing.
  const at::Tensor sum = w.weight + at::matmul(w.b, w.a).detach() * 1.5;
  const at::Tensor norm = at::sqrt(at::sum(sum * sum, {1}));
  CHECK(close(w.magnitude, norm));
  {
    at::NoGradGuard no_grad;
    w.magnitude.mul_(0.7);
  }
  at::Tensor x = at::randn({5, 10}).requires_grad_(), x2 = x.detach().clone().requires_grad_();
  at::Tensor a = w.a.detach().clone().requires_grad_(), b = w.b.detach().clone().requires_grad_(),
             m = w.magnitude.detach().clone().requires_grad_();
  const at::Tensor expected = at::linear(x2, (w.weight + at::matmul(b, a) * 1.5) * (m / norm).unsqueeze(1), w.bias);
  const at::Tensor seed = at::randn({5, 12});
  torch::autograd::backward({expected}, {seed});
  const at::Tensor y = w.filler->linear(x);
  torch::autograd::backward({y}, {seed});
  CHECK(close(y, expected));
  CHECK(close(x.grad(), x2.grad()));
  CHECK(close(w.a.grad(), a.grad()));
  CHECK(close(w.b.grad(), b.grad()));
  CHECK(close(w.magnitude.grad(), m.grad()));
}

TEST_CASE("an embedding's update is looked up with its rows") {
  at::manual_seed(11);
  LoraOptions options = options_of(3, 6);
  options.init_lora_weights = false;
  Lora adapter(options);
  const SlotSpec slot = embedding_slot(20, 8);
  const at::Tensor table = at::randn({20, 8});
  auto filler = adapter.wrap(slot, std::make_shared<PlainFiller>(table, at::Tensor()), at::kCPU, true);
  const auto state = adapter.state();
  CHECK(state[0].name == "base_model.model.model.embed_tokens.lora_embedding_A");
  CHECK(state[1].name == "base_model.model.model.embed_tokens.lora_embedding_B");
  CHECK((state[0].tensor.sizes() == at::IntArrayRef({3, 20})));
  CHECK((state[1].tensor.sizes() == at::IntArrayRef({8, 3})));
  const at::Tensor ids = at::randint(20, {2, 5}, at::kLong);
  const at::Tensor merged = adapter.merge(slot, table);
  CHECK(close(merged, table + at::matmul(state[1].tensor, state[0].tensor).t() * 2));
  const at::Tensor rows = filler->rows(ids, at::kFloat);
  CHECK(close(rows, at::embedding(merged, ids)));
  CHECK(close(filler->dense_rows(at::kFloat, 4, 11), merged.narrow(0, 4, 7)));
  torch::autograd::backward({at::sum(rows)});
  CHECK(state[0].tensor.grad().abs().sum().item<float>() > 0);
  CHECK((filler->rows(ids, at::kBFloat16).scalar_type() == at::kBFloat16));
}

TEST_CASE("fresh updates start as PEFT starts them") {
  auto start = [](Value init) {
    at::manual_seed(12);
    LoraOptions options = options_of(16, 16);
    options.init_lora_weights = std::move(init);
    Lora adapter(options);
    adapter.wrap(linear_slot(30, 400), std::make_shared<PlainFiller>(at::randn({30, 400}), at::Tensor()), at::kCPU, true);
    return adapter.state();
  };
  for (const char* name : {"default", ""}) {
    const auto state = start(*name ? Value(name) : Value(true));
    CHECK(state[0].tensor.abs().max().item<float>() <= 0.05);  // 1 / sqrt(400)
    CHECK(state[0].tensor.std().item<float>() == doctest::Approx(0.05 / std::sqrt(3.0)).epsilon(0.03));
    CHECK(state[1].tensor.abs().max().item<float>() == 0);
    CHECK(state[0].tensor.requires_grad());
    CHECK(state[0].tensor.is_leaf());
  }
  CHECK(start("gaussian")[0].tensor.std().item<float>() == doctest::Approx(1.0 / 16).epsilon(0.05));
  CHECK(start("gaussian")[1].tensor.abs().max().item<float>() == 0);
  CHECK(start(false)[1].tensor.abs().max().item<float>() > 0);
}

TEST_CASE("for use, parameters take no gradients") {
  Wrapped w(options_of(4, 4), 12, 10, true, /*trainable=*/false);
  CHECK_FALSE(w.a.requires_grad());
  CHECK_FALSE(w.filler->linear(at::randn({2, 10})).requires_grad());
}

TEST_CASE("the plan's parameters are those of the wrapped layer") {
  LoraOptions options = options_of(4, 4);
  options.use_dora = true;
  Wrapped w(options);
  const auto specs = w.adapter.parameters(w.slot);
  const auto state = w.adapter.state();
  REQUIRE(specs.size() == state.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    CHECK(specs[i].name == state[i].name);
    CHECK((at::IntArrayRef(specs[i].shape) == state[i].tensor.sizes()));
    CHECK((specs[i].dtype == state[i].tensor.scalar_type()));
  }
}

TEST_CASE("a file's tensors find their places under every known spelling") {
  const std::string path = "model.layers.0.self_attn.q_proj";
  for (const char* prefix :
       {"base_model.model.model.layers.0.self_attn.q_proj", "base_model.model.layers.0.self_attn.q_proj", "base_model.model.old.q"})
    for (const char* name : {"", ".default"}) {
      at::manual_seed(13);
      LoraOptions options = options_of(4, 4);
      Lora adapter(options);
      SlotSpec slot = linear_slot(12, 10, path);
      slot.sources = {Source::rename("old.q.weight")};
      adapter.wrap(slot, std::make_shared<PlainFiller>(at::randn({12, 10}), at::Tensor()), at::kCPU, true);
      MemoryFile file;
      const at::Tensor a = file.tensors[std::string(prefix) + ".lora_A" + name + ".weight"] = at::randn({4, 10});
      const at::Tensor b = file.tensors[std::string(prefix) + ".lora_B" + name + ".weight"] = at::randn({12, 4});
      adapter.load(file);
      CHECK(close(adapter.state()[0].tensor, a));
      CHECK(close(adapter.state()[1].tensor, b));
      CHECK(adapter.state()[0].name == "base_model.model." + path + ".lora_A.weight");
    }
}

TEST_CASE("a file that does not fit is refused with everything that is wrong") {
  Wrapped w(options_of(4, 4));
  MemoryFile file;
  file.tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = at::randn({8, 10});
  file.tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = at::randn({4, 10});
  const std::string text = error_of([&] { w.adapter.load(file); });
  CHECK(text.find("q_proj.lora_A.weight' is [8, 10], expected [4, 10]") != std::string::npos);
  CHECK(text.find("layers.7.self_attn.q_proj.lora_A.weight' has no place in this model") != std::string::npos);
  CHECK(text.find("q_proj.lora_B.weight' is missing") != std::string::npos);
}

TEST_CASE("a saved copy of the base weight must be the model's own") {
  at::manual_seed(14);
  Wrapped w(options_of(4, 4));
  MemoryFile file;
  const std::string path = "base_model.model.model.layers.0.self_attn.q_proj";
  file.tensors[path + ".lora_A.weight"] = at::randn({4, 10});
  file.tensors[path + ".lora_B.weight"] = at::randn({12, 4});
  file.tensors[path + ".base_layer.weight"] = w.weight.to(at::kBFloat16);
  CHECK(error_of([&] { w.adapter.load(file); }) == "no error");
  file.tensors[path + ".base_layer.weight"] = w.weight + 0.1;
  CHECK(error_of([&] { w.adapter.load(file); }).find("is another weight than the model's") != std::string::npos);
}

TEST_CASE("rows of new tokens are trained in embedding and head, and are one leaf where those are tied") {
  at::manual_seed(5);
  constexpr int64_t kRows = 9, kWidth = 4;
  for (const bool tied : {false, true}) {
    Blueprint blueprint;
    blueprint.model_type = "llama";
    SlotSpec head = linear_slot(kRows, kWidth, "lm_head");
    head.role = SlotRole::OutputHead;
    if (tied) head.tied_to = "model.embed_tokens";
    blueprint.slots = {embedding_slot(kRows, kWidth), linear_slot(kWidth, kWidth), head};
    LoraOptions options;
    options.target_modules = Value(std::vector<std::string>{"q_proj"});
    options.new_tokens = Value(std::vector<int64_t>{8, 2});
    Lora adapter(options);
    CHECK(adapter.targets(blueprint) == std::vector<std::string>{"model.embed_tokens", "model.layers.0.self_attn.q_proj", "lm_head"});
    const auto base = std::make_shared<PlainFiller>(at::randn({kRows, kWidth}), at::Tensor());
    const auto other = tied ? base : std::make_shared<PlainFiller>(at::randn({kRows, kWidth}), at::Tensor());
    const auto embedding = adapter.wrap(blueprint.slots[0], base, at::kCPU, true);
    const auto output = adapter.wrap(blueprint.slots[2], other, at::kCPU, true);
    const auto state = adapter.state();
    REQUIRE(state.size() == (tied ? 1 : 2));
    CHECK(state[0].name == "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta");
    CHECK(state[0].tensor.equal(at::embedding(base->weight(), at::tensor({8, 2}))));
    // Nothing has changed yet; then the rows, and only they, are the leaf's.
    const at::Tensor ids = at::tensor({1, 8, 2, 0}).view({2, 2}), x = at::randn({3, kWidth});
    CHECK(embedding->rows(ids, at::kFloat).equal(base->rows(ids, at::kFloat)));
    CHECK(close(output->linear(x), other->linear(x)));
    {
      at::NoGradGuard no_grad;
      for (const auto& leaf : state) leaf.tensor.add_(1);
    }
    at::Tensor changed = base->weight().clone(), changed_head = other->weight().clone();
    for (const int64_t id : {8, 2}) changed[id].add_(1), changed_head[id].add_(1);
    CHECK(embedding->rows(ids, at::kFloat).equal(at::embedding(changed, ids)));
    CHECK(close(output->linear(x), at::linear(x, changed_head)));
    CHECK(embedding->dense_rows(at::kFloat, 1, 9).equal(changed.narrow(0, 1, 8)));
    CHECK(adapter.merge(blueprint.slots[2], other->weight()).equal(changed_head));
    // Gradients are those of the same rows in a whole matrix.
    at::Tensor whole = changed.clone().requires_grad_(true), whole_head = tied ? whole : changed_head.clone().requires_grad_(true);
    const at::Tensor y = at::linear(at::embedding(whole, ids).view({4, kWidth}), whole_head);
    (y * y).sum().backward();
    const at::Tensor z = output->linear(embedding->rows(ids, at::kFloat).view({4, kWidth}));
    (z * z).sum().backward();
    CHECK(close(state[0].tensor.grad(), at::embedding(whole.grad(), at::tensor({8, 2}))));
    if (!tied) CHECK(close(state[1].tensor.grad(), at::embedding(whole_head.grad(), at::tensor({8, 2}))));
    adapter.set_enabled(false);
    CHECK(embedding->rows(ids, at::kFloat).equal(base->rows(ids, at::kFloat)));
    const Value written = adapter.config("").at("trainable_token_indices");
    CHECK((written.find("lm_head") == nullptr) == tied);
    CHECK((written.at("embed_tokens") == options.new_tokens));
  }
}

TEST_CASE("trained rows that cannot be are refused, and what is trained whole needs none") {
  Blueprint blueprint;
  blueprint.model_type = "llama";
  SlotSpec head = linear_slot(9, 4, "lm_head");
  head.role = SlotRole::OutputHead;
  blueprint.slots = {embedding_slot(9, 4), linear_slot(4, 4), head};
  auto refusal = [&](Value rows, std::vector<std::string> whole = {}) {
    LoraOptions options;
    options.target_modules = Value(std::vector<std::string>{"q_proj"});
    options.trainable_token_indices = std::move(rows);
    options.modules_to_save = std::move(whole);
    return error_of([&] { Lora(options).targets(blueprint); });
  };
  auto table = [](const char* name) { return Value(Value::Table{{name, Value(std::vector<int64_t>{1})}}); };
  CHECK(refusal(Value(std::vector<int64_t>{9})).find("no token 9 among the 9 rows") != std::string::npos);
  CHECK(refusal(Value(std::vector<int64_t>{1, 1})).find("stands twice") != std::string::npos);
  CHECK(refusal(table("embed")).find("there are embed_tokens, lm_head") != std::string::npos);
  CHECK(refusal(table("q_proj")).find("no embedding or output head") != std::string::npos);
  CHECK(refusal(table("lm_head"), {"lm_head"}).find("keep one of them") != std::string::npos);
  LoraOptions options;
  options.target_modules = Value(std::vector<std::string>{"q_proj"});
  options.new_tokens = Value(std::vector<int64_t>{8});
  options.modules_to_save = {"embed_tokens"};
  Lora adapter(options);
  adapter.targets(blueprint);
  const Value written = adapter.config("").at("trainable_token_indices");
  CHECK(written.find("embed_tokens") == nullptr);
  CHECK(written.find("lm_head") != nullptr);
}
