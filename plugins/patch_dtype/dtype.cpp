#include "dtype.h"

#include "tenon/error.h"

namespace tenon::dtype {

OptionTable option_table() {
  const Constraint either = one_of({"float32", "model"});
  return tenon::option_table<Options>({
      option(&Options::norms, "norms", "Norm weights: \"float32\", or \"model\": as its other weights. By default as the host decides.",
             either),
      option(&Options::routers, "routers", "Weights that choose experts, and the scores that they give.", either),
      option(&Options::embeddings, "embeddings", "The table of token embeddings.", either),
      option(&Options::head, "head", "The output head and its product; with a tied head the table that it shares.", either),
  });
}

namespace {
// What weights that nobody singles out are kept in.
at::ScalarType common_dtype(const Blueprint& blueprint) {
  for (const auto& slot : blueprint.slots)
    if (slot.role == SlotRole::Inner && slot.kind == SlotKind::Linear) return slot.dtype;
  return at::kFloat;
}
}  // namespace

bool DtypePatch::on_blueprint(Blueprint& blueprint) {
  const at::ScalarType common = common_dtype(blueprint);
  bool changed = false;
  auto set = [&](at::ScalarType& dtype, const std::optional<std::string>& wanted) {
    if (!wanted) return;
    const at::ScalarType to = *wanted == "float32" ? at::kFloat : common;
    changed |= dtype != to;
    dtype = to;
  };
  for (auto& tensor : blueprint.tensors) {
    if (tensor.kind == DenseKind::Norm) set(tensor.dtype, options_.norms);
    if (tensor.kind == DenseKind::Router) set(tensor.dtype, options_.routers);
  }
  for (auto& slot : blueprint.slots)
    if (slot.role == SlotRole::InputEmbedding) set(slot.dtype, options_.embeddings);
  for (auto& slot : blueprint.slots) {
    if (slot.role != SlotRole::OutputHead) continue;
    set(slot.dtype, options_.head);
    for (auto& owner : blueprint.slots)
      if (options_.head && !slot.tied_to.empty() && owner.path == slot.tied_to) {
        if (options_.embeddings && *options_.embeddings != *options_.head)
          fail(ErrorCode::Recipe, "patch dtype: '", slot.path, "' shares the weight of '", owner.path, "', so that head = \"",
               *options_.head, "\" and embeddings = \"", *options_.embeddings, "\" contradict each other");
        set(owner.dtype, options_.head);
      }
  }
  return changed;
}

}  // namespace tenon::dtype
