#include <algorithm>

#include "export/export.h"
#include "export/export_folder.h"
#include "export/model_folder.h"
#include "tenon/error.h"

namespace tenon::host {

ExportReport export_hf(LoadedModel& model, const ExportOptions& options) {
  require_merged(model, options);
  const Blueprint& blueprint = model.parts->blueprint();
  const at::ScalarType dtype = model.precision.compute;
  ModelRows rows(model, options.merge);

  LayoutRequest request{.blueprint = &blueprint, .checkpoint = model.checkpoint.get(), .dtype = dtype};
  request.write_tied = [&](const SlotSpec& slot) { return rows.is_untied(slot); };
  const std::vector<FileTensor> layout = file_layout(request);
  const bool untied = std::any_of(blueprint.slots.begin(), blueprint.slots.end(), request.write_tied);
  std::vector<TensorSpec> specs;
  for (const auto& tensor : layout) specs.push_back(tensor.spec);

  ExportFolder folder(options.to, model.checkpoint ? model.checkpoint->folder() : std::filesystem::path());
  ModelWriter writer(folder.path(), specs, options.max_shard_bytes);
  write_tensors(writer, layout, rows);
  writer.commit();
  write_companions(folder.path(), model, exported_config(model.config, dtype, untied, Value()), options.chat_template);

  ExportReport report{.folder = folder.target(), .format = options.format, .bytes = writer.total_bytes()};
  if (untied)
    report.notes.push_back(
        "input embedding and output head were tied and now differ: both are written, and config.json says tie_word_embeddings = false");
  report.files = folder.commit(export_record(options, dtype));
  return report;
}

}  // namespace tenon::host
