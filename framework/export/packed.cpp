#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/text.h"
#include "export/export.h"
#include "export/export_folder.h"
#include "export/model_folder.h"
#include "model/quantized_filler.h"
#include "plugins/registry.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

struct PackedSlot {
  const SlotSpec* spec = nullptr;
  const Quantizer* quantizer = nullptr;
  std::string quantizer_name;
  std::vector<NamedTensor> merged;  // packed anew; empty: packed when written
};

// Quantized slots, each with who packs it. Merged ones are quantized again and kept: they are as small as in memory.
class Packer {
 public:
  Packer(LoadedModel& model, const ExportOptions& options, ModelRows& rows) : model_(model), options_(options), rows_(rows) {
    for (const auto& slot : model.parts->blueprint().slots) {
      const PlannedModule* planned = model.plan.find(slot.path);
      if (planned && planned->quantizer) slots_.push_back({&slot, planned->quantizer, planned->filler, {}});
    }
    if (slots_.empty())
      fail(ErrorCode::Recipe, "format '", options.format,
           "' writes quantized weights, but no weight of this model is quantized; use format = \"hf\"");
    check_quantizers();
  }

  bool packs(const SlotSpec& slot) const {
    return std::any_of(slots_.begin(), slots_.end(), [&](const PackedSlot& s) { return s.spec->path == slot.path; });
  }

  // The one quantization_config of the file; slots of other modules stay dense by name.
  Value config(const std::vector<std::string>& skipped, at::ScalarType dtype) const {
    Value result;
    const PackedSlot* first = nullptr;
    std::set<const Quantizer*> asked;
    for (const auto& slot : slots_) {
      if (!asked.insert(slot.quantizer).second) continue;
      Value own;
      call_plugin(slot.quantizer_name, "quantization_config", slot.spec->path,
                  [&] { own = slot.quantizer->quantization_config(skipped, dtype); });
      if (first && !(own == result))
        fail(ErrorCode::Recipe, "format '", options_.format, "' has one quantization_config for the whole model, but ", first->spec->path,
             " (", first->quantizer_name, ") and ", slot.spec->path, " (", slot.quantizer_name,
             ") need different ones; use one quantizer with one set of options, or format = \"hf\"");
      if (!first) first = &slot, result = std::move(own);
    }
    return result;
  }

  std::vector<TensorSpec> specs() {
    std::vector<TensorSpec> specs;
    for (auto& slot : slots_) {
      std::vector<NamedTensor> tensors = pack(slot);
      for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.sizes().vec(), tensor.scalar_type()});
      if (rows_.is_merged(slot.spec->path)) slot.merged = std::move(tensors);
    }
    return specs;
  }

  void write(ModelWriter& writer) {
    Progress progress("packing", static_cast<int64_t>(slots_.size()), false);
    for (auto& slot : slots_) {
      for (const auto& [name, tensor] : slot.merged.empty() ? pack(slot) : slot.merged) writer.append(name, tensor);
      slot.merged.clear();
      progress.add(1);
    }
    progress.finish();
  }

 private:
  void check_quantizers() const {
    std::set<std::string> others;
    const auto& names = options_.quantizers_of_format;
    for (const auto& slot : slots_)
      if (std::find(names.begin(), names.end(), slot.quantizer_name) == names.end()) others.insert(slot.quantizer_name);
    if (others.empty()) return;
    fail(ErrorCode::Recipe, "format '", options_.format, "' holds weights of ", join(names, ", "), ", but this model has some of ",
         join({others.begin(), others.end()}, ", "), "; use format = \"hf\"");
  }

  std::vector<NamedTensor> pack(const PackedSlot& slot) {
    const std::string& path = slot.spec->path;
    Tensors again;
    const Tensors* tensors = &again;
    if (rows_.is_merged(path)) {
      if (slot.quantizer->facts().needs_calibration)
        fail(ErrorCode::Recipe, "merging into ", path, ": quantizer ", slot.quantizer_name,
             " needs calibration data to quantize the merged weight; use format = \"hf\" with merge, or \"peft\"");
      call_plugin(slot.quantizer_name, "quantize", path,
                  [&] { again = slot.quantizer->quantize(*slot.spec, rows_.merged_weight(*slot.spec), nullptr); });
    } else {
      const auto* filler = dynamic_cast<const QuantizedFiller*>(model_.parts->slot(path).filler_ptr().get());
      if (!filler)
        fail(ErrorCode::Internal, path, " is planned as quantized by ", slot.quantizer_name, " but filled with ",
             model_.parts->slot(path).filler().describe());
      tensors = &filler->tensors();
    }
    std::vector<NamedTensor> packed;
    call_plugin(slot.quantizer_name, "pack", path, [&] { packed = slot.quantizer->pack(*slot.spec, *tensors); });
    return packed;
  }

  LoadedModel& model_;
  const ExportOptions& options_;
  ModelRows& rows_;
  std::vector<PackedSlot> slots_;
};

}  // namespace

ExportReport export_packed(LoadedModel& model, const ExportOptions& options) {
  require_merged(model, options);
  const Blueprint& blueprint = model.parts->blueprint();
  const at::ScalarType dtype = model.precision.compute;
  ModelRows rows(model, options.merge);
  Packer packer(model, options, rows);

  LayoutRequest request{.blueprint = &blueprint, .checkpoint = nullptr, .dtype = dtype};
  request.skip_weight = [&](const SlotSpec& slot) { return packer.packs(slot); };
  request.write_tied = [&](const SlotSpec& slot) { return rows.is_untied(slot); };
  const std::vector<FileTensor> layout = file_layout(request);
  const bool untied = std::any_of(blueprint.slots.begin(), blueprint.slots.end(), request.write_tied);

  // Readers quantize every linear module that this list does not name, so it names them all, tied heads and experts included.
  std::vector<std::string> skipped;
  for (const auto& slot : blueprint.slots)
    if ((slot.kind == SlotKind::Linear || slot.kind == SlotKind::Experts) && !packer.packs(slot)) skipped.push_back(slot.path);
  Value quantization = packer.config(skipped, dtype);

  std::vector<TensorSpec> specs;
  for (const auto& tensor : layout) specs.push_back(tensor.spec);
  for (auto& spec : packer.specs()) specs.push_back(std::move(spec));

  ExportFolder folder(options.to, model.checkpoint ? model.checkpoint->folder() : std::filesystem::path());
  ModelWriter writer(folder.path(), specs, options.max_shard_bytes);
  write_tensors(writer, layout, rows);
  packer.write(writer);
  writer.commit();
  write_companions(folder.path(), model, exported_config(model.config, dtype, untied, std::move(quantization)), options.chat_template);

  ExportReport report{.folder = folder.target(), .format = options.format, .bytes = writer.total_bytes()};
  if (options.merge && !model.adapters.empty())
    report.notes.push_back("merged weights were quantized again: their rounding differs from that of the base; --verify shows the effect");
  report.files = folder.commit(export_record(options, dtype));
  return report;
}

}  // namespace tenon::host
