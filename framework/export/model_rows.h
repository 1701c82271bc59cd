#pragma once
// Reads weights out of a model in memory for writing: as they are, or with adapters merged.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "export/file_layout.h"
#include "model/loaded_model.h"

namespace tenon::host {

class ModelRows {
 public:
  // With merge, the slots that adapters wrap are merged in float32, whole; everything else is read in panels.
  ModelRows(LoadedModel& model, bool merge);

  // Whether an adapter changes this slot's weight in a merge.
  bool is_merged(const std::string& path) const { return merged_by_.count(path) > 0; }
  // Whether a tied slot's weight is no longer the one it is tied to, so that a file must hold both.
  bool is_untied(const SlotSpec& slot);

  // The merged weight [out, in] (experts [count, out, in]) in float32, on the CPU.
  at::Tensor merged_weight(const SlotSpec& spec);
  // Hands the part over in `dtype` in panels of at most 64 MB, in order.
  void for_each_panel(const FilePart& part, at::ScalarType dtype, const std::function<void(const at::Tensor&)>& write);

 private:
  // Rows of the weight seen as [count * out, in].
  at::Tensor flat_rows(const Slot& slot, at::ScalarType dtype, int64_t first, int64_t last) const;

  LoadedModel& model_;
  std::map<std::string, std::vector<const LoadedAdapter*>> merged_by_;
  std::string cached_path_;  // one file tensor after another may hold parts of one merged weight
  at::Tensor cached_;
};

}  // namespace tenon::host
