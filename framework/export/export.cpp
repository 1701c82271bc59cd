#include "export/export.h"

#include "tenon/error.h"

namespace tenon::host {

ExportReport export_model(LoadedModel& model, const ExportOptions& options) {
  ExportOptions chosen = options;
  if (chosen.format.empty()) chosen.format = !model.adapters.empty() && !chosen.merge ? "peft" : "hf";
  if (chosen.format == "hf") return export_hf(model, chosen);
  if (chosen.format == "peft") return export_peft(model, chosen);
  if (chosen.quantizers_of_format.empty())
    fail(ErrorCode::Recipe, "no export format '", chosen.format, "': expected hf, peft or one that a quantizer plugin declares");
  return export_packed(model, chosen);
}

}  // namespace tenon::host
