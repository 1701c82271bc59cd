#include "export/peft.h"

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/folder.h"
#include "checkpoint/safetensors.h"
#include "export/export.h"
#include "export/export_folder.h"
#include "export/model_folder.h"
#include "export/tokenizer_files.h"
#include "plugins/registry.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

// The card that hubs show; its first block is YAML, where JSON strings are strings as well.
std::string model_card(const LoadedAdapter& loaded, const Value& config, const std::string& base_model) {
  std::string card = "---\n";
  if (!base_model.empty()) card += "base_model: " + to_json(Value(base_model)) + "\n";
  card += "library_name: peft\n";
  if (config.string_or("task_type", "") == "CAUSAL_LM") card += "pipeline_tag: text-generation\n";
  card += "tags:\n";
  if (!base_model.empty()) card += "- " + to_json(Value("base_model:adapter:" + base_model)) + "\n";
  card += "- " + to_json(Value(loaded.type)) + "\n---\n\n";
  card += "# Adapter (" + loaded.type + ")\n\n";
  if (!base_model.empty()) card += "Trained on `" + base_model + "` with tenon.\n\n";
  card +=
      "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\nbase = "
      "AutoModelForCausalLM.from_pretrained(" +
      to_json(Value(base_model.empty() ? "the base model" : base_model)) +
      ")\nmodel = PeftModel.from_pretrained(base, \"this folder\")\n```\n";
  return card;
}

}  // namespace

void write_adapter_files(const fs::path& folder, const LoadedAdapter& loaded, const std::string& base_model) {
  Value config;
  std::vector<NamedTensor> tensors;
  call_plugin(loaded.type, "config", loaded.name, [&] { config = loaded.adapter->config(base_model); });
  call_plugin(loaded.type, "state", loaded.name, [&] {
    for (auto& parameter : loaded.adapter->state()) tensors.push_back({parameter.name, parameter.tensor});
  });
  if (tensors.empty()) fail(ErrorCode::Plugin, "adapter ", loaded.type, ": there are no weights to write");
  // Weights first: a folder with a config is taken for complete.
  write_safetensors(folder / "adapter_model.safetensors", tensors);
  write_file(folder / "README.md", model_card(loaded, config, base_model));
  write_file(folder / "adapter_config.json", to_json(config, 2) + "\n");
}

void write_adapters(const fs::path& folder, const std::vector<LoadedAdapter>& adapters, const std::string& base_model) {
  for (const auto& loaded : adapters) {
    if (loaded.name == "default" || adapters.size() == 1) {
      write_adapter_files(folder, loaded, base_model);
      continue;
    }
    if (!is_plain_file_name(loaded.name)) fail(ErrorCode::Recipe, "the adapter's name '", loaded.name, "' cannot be a folder's name");
    fs::create_directories(folder / loaded.name);
    write_adapter_files(folder / loaded.name, loaded, base_model);
  }
}

ExportReport export_peft(LoadedModel& model, const ExportOptions& options) {
  if (model.adapters.empty()) fail(ErrorCode::Recipe, "format 'peft' writes adapters, but the recipe has none; use format = \"hf\"");
  if (options.merge)
    fail(ErrorCode::Recipe, "format 'peft' writes adapters as they are, and merge removes them; use format = \"hf\" with merge");
  ExportFolder folder(options.to, model.checkpoint ? model.checkpoint->folder() : fs::path());
  write_adapters(folder.path(), model.adapters, options.base_model);
  if (!model.added_tokens.empty()) write_tokenizer(folder.path(), model, options.chat_template);  // its rows belong to these tokens
  ExportReport report{.folder = folder.target(), .format = options.format};
  for (const auto& loaded : model.adapters)
    for (const auto& parameter : loaded.adapter->state()) report.bytes += static_cast<int64_t>(parameter.tensor.nbytes());
  report.files = folder.commit(export_record(options, at::ScalarType::Undefined));
  return report;
}

}  // namespace tenon::host
