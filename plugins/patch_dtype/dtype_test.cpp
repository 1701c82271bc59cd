#include "dtype.h"

#include <doctest/doctest.h>

#include "tenon/error.h"

using namespace tenon;

namespace {
// As the host hands it over in inference: everything bfloat16.
Blueprint decoder(bool tied) {
  Blueprint b;
  SlotSpec embedding{.path = "embed", .kind = SlotKind::Embedding, .role = SlotRole::InputEmbedding, .out = 10, .in = 4};
  SlotSpec inner{.path = "layers.0.q", .out = 4, .in = 4};
  SlotSpec head{.path = "head", .role = SlotRole::OutputHead, .out = 10, .in = 4};
  if (tied) head.tied_to = "embed";
  b.slots = {embedding, inner, head};
  DenseSpec norm{.path = "layers.0.norm.weight"}, router{.path = "layers.0.gate.weight"};
  router.kind = DenseKind::Router;
  b.tensors = {norm, router};
  for (auto& slot : b.slots) slot.dtype = at::kBFloat16;
  for (auto& tensor : b.tensors) tensor.dtype = at::kBFloat16;
  return b;
}
}  // namespace

TEST_CASE("each kind is kept in float32 by itself, and nothing else is") {
  auto floats = [](dtype::Options options, bool tied = false) {
    Blueprint b = decoder(tied);
    const bool changed = dtype::DtypePatch(options).on_blueprint(b);
    std::string names;
    for (const auto& slot : b.slots)
      if (slot.dtype == at::kFloat) names += slot.path + " ";
    for (const auto& tensor : b.tensors)
      if (tensor.dtype == at::kFloat) names += tensor.path + " ";
    CHECK(changed == !names.empty());
    return names;
  };
  CHECK(floats({}) == "");
  CHECK(floats({.norms = "float32"}) == "layers.0.norm.weight ");
  CHECK(floats({.routers = "float32"}) == "layers.0.gate.weight ");
  CHECK(floats({.embeddings = "float32"}) == "embed ");
  CHECK(floats({.head = "float32"}) == "head ");
  CHECK(floats({.head = "float32"}, true) == "embed head ");
  CHECK(floats({.norms = "model", .head = "model"}) == "");
}

TEST_CASE("what the host keeps in float32 goes back to the model's dtype; contradictions are refused") {
  Blueprint training = decoder(false);
  for (auto& tensor : training.tensors) tensor.dtype = at::kFloat;
  CHECK(dtype::DtypePatch({.norms = "model"}).on_blueprint(training));
  CHECK((training.tensors[0].dtype == at::kBFloat16));
  CHECK((training.tensors[1].dtype == at::kFloat));
  CHECK(!dtype::DtypePatch({.norms = "model"}).on_blueprint(training));
  Blueprint tied = decoder(true);
  CHECK_THROWS_AS(dtype::DtypePatch({.embeddings = "model", .head = "float32"}).on_blueprint(tied), Error);
}
