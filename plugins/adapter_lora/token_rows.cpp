#include "token_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <set>

#include "tenon/error.h"
#include "tenon/nn/linear.h"

namespace tenon::lora {

namespace {

std::vector<int64_t> ids_of(const Value& list, const SlotSpec& slot) {
  std::vector<int64_t> ids;
  std::set<int64_t> seen;
  for (const Value& item : list.as_list()) {
    const int64_t id = item.as_int();
    if (id < 0 || id >= slot.out)
      fail(ErrorCode::Recipe, "trainable_token_indices: there is no token ", id, " among the ", slot.out, " rows of '", slot.path,
           "': text.add_tokens brings new ones");
    if (!seen.insert(id).second) fail(ErrorCode::Recipe, "trainable_token_indices: token ", id, " stands twice");
    ids.push_back(id);
  }
  return ids;
}

bool is_called(const std::string& path, const std::string& name) {
  return path == name || (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
}

bool has_rows(const SlotSpec& slot) { return slot.role != SlotRole::Inner || slot.kind == SlotKind::Embedding; }

std::string vocabulary_slots(const Blueprint& blueprint) {
  std::string names;
  for (const auto& slot : blueprint.slots)
    if (has_rows(slot)) names += (names.empty() ? "" : ", ") + last_name(slot.path);
  return names;
}

void add_named(const LoraOptions& options, const Blueprint& blueprint, bool saved, TokenRowsOf& found) {
  for (const auto& [name, list] : options.trainable_token_indices.as_table()) {
    size_t count = 0;
    for (const auto& slot : blueprint.slots) {
      if (!is_called(slot.path, name)) continue;
      ++count;
      if (!has_rows(slot) || slot.kind == SlotKind::Experts)
        fail(ErrorCode::Recipe, "trainable_token_indices: '", slot.path, "' is no embedding or output head; there are ",
             vocabulary_slots(blueprint));
      found.slots[slot.path] = {ids_of(list, slot), slot.path};
    }
    if (count == 0 && !saved)
      fail(ErrorCode::Recipe, "trainable_token_indices: no module is named '", name, "'; there are ", vocabulary_slots(blueprint));
  }
}

// A head that is tied to an embedding follows it, unless it has other rows of its own.
void tie(const Blueprint& blueprint, const std::function<bool(const SlotSpec&)>& is_taken, TokenRowsOf& found) {
  for (const auto& slot : blueprint.slots) {
    const auto owner = found.slots.find(slot.tied_to);
    if (slot.tied_to.empty() || owner == found.slots.end()) continue;
    const auto own = found.slots.find(slot.path);
    const bool follows = own == found.slots.end() ? !is_taken(slot) : own->second.ids == owner->second.ids;
    if (follows) found.slots[slot.path] = owner->second;
  }
}

}  // namespace

TokenRowsOf find_token_rows(const LoraOptions& options, const Blueprint& blueprint, bool saved,
                            const std::function<bool(const SlotSpec&)>& is_taken) {
  TokenRowsOf found;
  const Value& wanted = options.trainable_token_indices;
  const auto embedding =
      std::find_if(blueprint.slots.begin(), blueprint.slots.end(), [](const auto& slot) { return slot.role == SlotRole::InputEmbedding; });
  if (wanted.is_list()) {
    if (embedding == blueprint.slots.end()) fail(ErrorCode::Recipe, "trainable_token_indices: this model has no embedding");
    found.slots[embedding->path] = {ids_of(wanted, *embedding), embedding->path};
    found.written = wanted;
  } else if (wanted.is_table()) {
    add_named(options, blueprint, saved, found);
    found.written = wanted;
  } else if (options.new_tokens.is_list() && !options.new_tokens.as_list().empty()) {
    Value table = Value::table();
    for (const auto& slot : blueprint.slots) {
      if ((slot.role != SlotRole::InputEmbedding && slot.role != SlotRole::OutputHead) || !slot.tied_to.empty() || is_taken(slot)) continue;
      found.slots[slot.path] = {ids_of(options.new_tokens, slot), slot.path};
      table.set(last_name(slot.path), options.new_tokens);
    }
    if (!found.slots.empty()) found.written = std::move(table);
  }
  tie(blueprint, is_taken, found);
  for (const auto& [path, rows] : found.slots) {
    const SlotSpec& slot = *blueprint.find_slot(path);
    if (rows.owner == path && is_taken(slot))
      fail(ErrorCode::Recipe, "trainable_token_indices: '", path,
           "' is named by target_modules or modules_to_save as well: keep one of them");
    if (slot.bias) fail(ErrorCode::Recipe, "trainable_token_indices: '", path, "' has a bias, and PEFT would leave it out");
  }
  return found;
}

TokenRowsFiller::TokenRowsFiller(std::shared_ptr<Filler> base, at::Tensor ids, at::Tensor rows, int64_t vocabulary,
                                 std::shared_ptr<const Switches> switches)
    : base_(std::move(base)), ids_(std::move(ids)), rows_(std::move(rows)), switches_(std::move(switches)) {
  places_ = at::full({vocabulary}, -1, ids_.options());
  places_.index_copy_(0, ids_, at::arange(ids_.size(0), ids_.options()));
}

at::Tensor TokenRowsFiller::rows(const at::Tensor& ids, at::ScalarType dtype) {
  at::Tensor rows = base_->rows(ids, dtype);
  if (!switches_->enabled) return rows;
  const at::Tensor place = at::index_select(places_, 0, ids.reshape({-1})).view(ids.sizes());
  const at::Tensor own = at::embedding(rows_, place.clamp_min(0)).to(dtype);
  return at::where(place.ge(0).unsqueeze(-1), own, rows);
}

at::Tensor TokenRowsFiller::linear(const at::Tensor& x) {
  at::Tensor y = base_->linear(x);
  if (!switches_->enabled) return y;
  return y.index_copy(-1, ids_, nn::linear(x, rows_.to(x.scalar_type())).to(y.scalar_type()));
}

at::Tensor TokenRowsFiller::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  at::Tensor rows = base_->dense_rows(dtype, first, last);
  if (!switches_->enabled) return rows;
  const at::NoGradGuard no_grad;
  const at::Tensor place = places_.narrow(0, first, last - first);
  const at::Tensor own = at::embedding(rows_.detach(), place.clamp_min(0)).to(dtype);
  return at::where(place.ge(0).unsqueeze(-1), own, rows);
}

}  // namespace tenon::lora
