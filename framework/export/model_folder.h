#pragma once
// What hf and packed exports share: the files of a model folder beside its weights, and the writing of dense weights.
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "export/export.h"
#include "export/file_layout.h"
#include "export/model_rows.h"
#include "tenon/value.h"

namespace tenon::host {

// config.json of the exported folder: the model's config with the dtype and quantization that it now has. `quantization` may be null.
Value exported_config(Value config, at::ScalarType dtype, bool untied, Value quantization);

// config.json, and generation_config.json, tokenizer and processor files as the checkpoint has them.
void write_companions(const std::filesystem::path& folder, const LoadedModel& model, const Value& config,
                      const std::filesystem::path& chat_template);

// All tensors of a layout, with progress.
void write_tensors(ModelWriter& writer, const std::vector<FileTensor>& layout, ModelRows& rows);

// Error(Recipe) unless adapters are merged or absent.
void require_merged(const LoadedModel& model, const ExportOptions& options);

// What the folder records about its making.
Value export_record(const ExportOptions& options, at::ScalarType dtype);

}  // namespace tenon::host
