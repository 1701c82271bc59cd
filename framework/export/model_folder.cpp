#include "export/model_folder.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "checkpoint/dtype.h"
#include "export/tokenizer_files.h"
#include "tenon/error.h"
#include "tenon/version.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

// What else a model folder has beside its weights and tokenizer.
constexpr const char* kCompanions[] = {
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
};

void set_dtype(Value& config, std::string_view name) {
  // transformers reads both names and writes `dtype` since 4.56; older releases know `torch_dtype` only.
  const bool has_new = config.find("dtype") != nullptr;
  if (has_new) config.set("dtype", name);
  if (!has_new || config.find("torch_dtype")) config.set("torch_dtype", name);
}

}  // namespace

Value exported_config(Value config, at::ScalarType dtype, bool untied, Value quantization) {
  set_dtype(config, config_name(dtype));
  if (untied) config.set("tie_word_embeddings", false);
  if (Value* text = config.find("text_config"); text && text->is_table()) {
    if (text->find("dtype") || text->find("torch_dtype")) set_dtype(*text, config_name(dtype));
    if (untied && text->find("tie_word_embeddings")) text->set("tie_word_embeddings", false);
  }
  config.erase("quantization_config");
  if (!quantization.is_null()) config.set("quantization_config", std::move(quantization));
  return config;
}

void write_companions(const fs::path& folder, const LoadedModel& model, const Value& config, const fs::path& chat_template) {
  write_file(folder / "config.json", to_json(config, 2) + "\n");
  if (model.checkpoint)
    for (const char* name : kCompanions) {
      const fs::path source = model.checkpoint->folder() / name;
      std::error_code error;
      if (fs::is_regular_file(source, error)) write_file(folder / name, read_file(source));
    }
  write_tokenizer(folder, model, chat_template);
}

void write_tensors(ModelWriter& writer, const std::vector<FileTensor>& layout, ModelRows& rows) {
  int64_t total = 0;
  for (const auto& tensor : layout) total += tensor.spec.bytes();
  Progress progress("writing", total, true);
  for (const auto& tensor : layout)
    for (const auto& part : tensor.parts)
      rows.for_each_panel(part, tensor.spec.dtype, [&](const at::Tensor& panel) {
        writer.append(tensor.spec.name, panel);
        progress.add(static_cast<int64_t>(panel.numel()) * static_cast<int64_t>(panel.element_size()));
      });
  progress.finish();
}

void require_merged(const LoadedModel& model, const ExportOptions& options) {
  if (options.merge || model.adapters.empty()) return;
  fail(ErrorCode::Recipe, "format '", options.format, "' writes a whole model, but the model has the adapter '",
       model.adapters.front().name, "': merge it (export.merge = true, --merge), or write the adapter alone (format = \"peft\")");
}

Value export_record(const ExportOptions& options, at::ScalarType dtype) {
  Value record = Value::table();
  record.set("tenon", concat(TENON_SDK_MAJOR, ".", TENON_SDK_MINOR));
  record.set("format", options.format);
  record.set("merged", options.merge);
  if (dtype != at::ScalarType::Undefined) record.set("dtype", config_name(dtype));
  return record;
}

}  // namespace tenon::host
