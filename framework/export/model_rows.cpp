#include "export/model_rows.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>

#include "base/interrupt.h"
#include "checkpoint/accounting.h"
#include "checkpoint/printable.h"
#include "plugins/registry.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

constexpr int64_t kPanelBytes = int64_t{64} << 20;

// Wrapped slots act like their base while this lives.
class AdaptersOff {
 public:
  explicit AdaptersOff(LoadedModel& model) : model_(model) { model_.set_adapters_enabled(false); }
  ~AdaptersOff() { model_.set_adapters_enabled(true); }
  AdaptersOff(const AdaptersOff&) = delete;
  AdaptersOff& operator=(const AdaptersOff&) = delete;

 private:
  LoadedModel& model_;
};

// visit(first, last) over [begin, end) in panels; rows count as float32, the widest that passes through.
template <class Visit>
void panels(int64_t begin, int64_t end, int64_t width, Visit&& visit) {
  const int64_t step = std::max<int64_t>(1, kPanelBytes / std::max<int64_t>(1, width * 4));
  for (int64_t first = begin; first < end; first += step) {
    throw_if_interrupted();
    visit(first, std::min(end, first + step));
  }
}

}  // namespace

ModelRows::ModelRows(LoadedModel& model, bool merge) : model_(model) {
  if (!merge) return;
  for (const auto& loaded : model.adapters)
    call_plugin(loaded.type, "targets", loaded.name, [&] {
      for (const auto& path : loaded.adapter->targets(model.parts->blueprint())) merged_by_[path].push_back(&loaded);
    });
}

bool ModelRows::is_untied(const SlotSpec& slot) {
  if (slot.tied_to.empty()) return false;
  const bool both = is_merged(slot.path) && is_merged(slot.tied_to);
  if (both) {
    // Changed alike they are one weight still: rows of new tokens, trained in both places.
    const at::Tensor own = merged_weight(slot);
    return !own.equal(merged_weight(*model_.parts->blueprint().find_slot(slot.tied_to)));
  }
  if (is_merged(slot.path) || is_merged(slot.tied_to)) return true;
  // An adapter may have put a copy that it trains whole into one of the two places; only then do their fillers share no weight.
  for (const auto& loaded : model_.adapters)
    for (const auto& path : loaded.adapter->modules_to_save(model_.parts->blueprint()))
      if (path == slot.path || path == slot.tied_to) {
        const int64_t rows = std::min<int64_t>(slot.out, 64);
        return !model_.parts->slot(slot.path)
                    .filler()
                    .dense_rows(at::kFloat, 0, rows)
                    .equal(model_.parts->slot(slot.tied_to).filler().dense_rows(at::kFloat, 0, rows));
      }
  return false;
}

at::Tensor ModelRows::flat_rows(const Slot& slot, at::ScalarType dtype, int64_t first, int64_t last) const {
  const SlotSpec& spec = slot.spec();
  if (spec.kind != SlotKind::Experts) return slot.filler().dense_rows(dtype, first, last);
  // Fillers of experts count members, each [out, in].
  const int64_t member = first / spec.out, end = (last + spec.out - 1) / spec.out;
  return slot.filler().dense_rows(dtype, member, end).reshape({-1, spec.in}).narrow(0, first - member * spec.out, last - first);
}

at::Tensor ModelRows::merged_weight(const SlotSpec& spec) {
  if (cached_path_ == spec.path) return cached_;
  at::NoGradGuard no_grad;
  const std::vector<int64_t> shape = weight_shape(spec);
  const int64_t rows = spec.count * spec.out;
  cached_path_.clear();
  cached_ = at::Tensor();
  at::Tensor weight = at::empty({rows, spec.in}, at::kFloat);
  {
    AdaptersOff off(model_);
    const Slot& slot = model_.parts->slot(spec.path);
    panels(0, rows, spec.in,
           [&](int64_t first, int64_t last) { weight.narrow(0, first, last - first).copy_(flat_rows(slot, at::kFloat, first, last)); });
  }
  weight = weight.view(shape);
  for (const LoadedAdapter* loaded : merged_by_.at(spec.path)) {
    call_plugin(loaded->type, "merge", spec.path, [&] { weight = loaded->adapter->merge(spec, weight); });
    if (weight.sizes() != at::IntArrayRef(shape) || weight.scalar_type() != at::kFloat)
      fail(ErrorCode::Plugin, "adapter ", loaded->type, ": merging ", spec.path, " gave another shape or dtype than float32 ",
           shape_text(shape));
  }
  cached_ = weight.cpu().contiguous();
  cached_path_ = spec.path;
  return cached_;
}

void ModelRows::for_each_panel(const FilePart& part, at::ScalarType dtype, const std::function<void(const at::Tensor&)>& write) {
  at::NoGradGuard no_grad;
  if (part.kind == FilePart::Kind::Weight) {
    const Slot& slot = model_.parts->slot(part.path);
    const SlotSpec& spec = slot.spec();
    if (is_merged(part.path)) {
      const at::Tensor whole = merged_weight(spec).view({-1, spec.in});
      panels(part.row, part.row + part.rows, spec.in,
             [&](int64_t first, int64_t last) { write(whole.narrow(0, first, last - first).to(dtype)); });
      return;
    }
    // A tied weight that is written apart is the one from before the merge, whichever filler the two places share.
    std::optional<AdaptersOff> off;
    if (!spec.tied_to.empty() && is_merged(spec.tied_to)) off.emplace(model_);
    panels(part.row, part.row + part.rows, spec.in, [&](int64_t first, int64_t last) { write(flat_rows(slot, dtype, first, last)); });
    return;
  }
  at::Tensor value =
      part.kind == FilePart::Kind::Bias ? model_.parts->slot(part.path).filler().bias() : model_.parts->dense(part.path).value;
  if (!value.defined())
    fail(ErrorCode::Internal, "'", part.path, "' has no ", part.kind == FilePart::Kind::Bias ? "bias" : "value", " to write");
  value = value.detach().reshape({-1});
  panels(part.row, part.row + part.rows, 1, [&](int64_t first, int64_t last) { write(value.narrow(0, first, last - first).to(dtype)); });
}

}  // namespace tenon::host
