// What other tools call our keys, and what is not served yet: asked only when a key is already known to be wrong.
#include <algorithm>
#include <iterator>

#include "base/embedded.h"
#include "base/text.h"
#include "recipe/schema.h"

namespace tenon::host {

namespace {

struct Migration {
  const char *from, *to;
};

// Axolotl, TRL and the alignment handbook, flat at the top level there. What a plugin's options are called elsewhere is that plugin's to say:
// plugins/*/other_tools.txt, lines of "name there = what to write here".
constexpr Migration kMigrations[] = {
    {"base_model", "path in [model]"},
    {"model_name_or_path", "path in [model]"},
    {"torch_dtype", "dtype in [model]"},
    {"bf16", "dtype = \"bfloat16\" in [model]"},
    {"fp16", "dtype = \"float16\" in [model]"},
    {"gpu_memory_limit", "max_memory in [model]"},
    {"overrides_of_model_config", "overrides in [model]"},
    {"model_config", "overrides in [model]"},
    {"load_in_4bit", "[quantizer] with the type of a 4-bit quantizer (host plugins list --kind quantizer)"},
    {"load_in_8bit", "[quantizer] with the type of an 8-bit quantizer (host plugins list --kind quantizer)"},
    {"quantization_bit", "[quantizer] with a type (host plugins list --kind quantizer)"},
    {"modules_to_not_convert", "skip_modules in [quantizer]"},
    {"adapter_name_or_path", "path in [adapter]"},
    {"use_peft", "[adapter] with a type"},
    {"finetuning_type", "[adapter] with a type"},
    {"tokens", "add_tokens in [text]"},
    {"special_tokens", "add_tokens in [text]"},
    {"template", "chat_template in [text]"},
    {"datasets", "train in [data]"},
    {"dataset", "train in [data]"},
    {"dataset_mixer", "train in [data], as tables { path, weight }"},
    {"test_datasets", "eval in [data]"},
    {"eval_dataset", "eval in [data]"},
    {"val_set_size", "eval in [data], with files of its own"},
    {"sequence_len", "max_length in [data]"},
    {"max_seq_length", "max_length in [data]"},
    {"max_seq_len", "max_length in [data]"},
    {"cutoff_len", "max_length in [data]"},
    {"sample_packing", "packing in [data]"},
    {"excess_length_strategy", "overlong in [data]"},
    {"lr", "learning_rate in [train]"},
    {"num_epochs", "num_train_epochs in [train]"},
    {"epochs", "num_train_epochs in [train]"},
    {"micro_batch_size", "per_device_train_batch_size in [train]"},
    {"batch_size", "per_device_train_batch_size in [train]"},
    {"eval_batch_size", "per_device_eval_batch_size in [train]"},
    {"optimizer", "optim in [train]"},
    {"lr_scheduler", "lr_scheduler_type in [train]"},
    {"freeze_vision_tower", "freeze in [train], a list with the part \"vision\""},
    {"freeze_multi_modal_projector", "freeze in [train], a list with the part \"projector\""},
    {"freeze_language_model", "freeze in [train], a list with the part \"language\""},
    {"unfrozen_parameters", "freeze in [train], which names what stays as it is"},
    {"gradient_clipping", "max_grad_norm in [train]"},
    {"rl", "objective in [train]"},
    {"stage", "objective in [train]"},
    {"saves_per_epoch", "save_steps in [train]"},
    {"evals_per_epoch", "eval_steps in [train]"},
    {"eval_strategy", "eval_steps in [train]"},
    {"evaluation_strategy", "eval_steps in [train]"},
    {"save_strategy", "save_steps in [train]"},
    {"output_dir", "dir in [output]"},
};

struct Later {
  const char *section, *key, *text;
};

constexpr Later kLater[] = {
    {"reference", "", "'[reference]' is not served yet: preference objectives bring it"},
    {"processor", "", "'[processor]' is not served yet: models that see or hear bring it"},
    {"data", "format=preference", "the data format \"preference\" is not served yet: preference objectives bring it"},
};

std::string hint_of_plugins(const std::string& key) {
  const std::string start = key + " = ";
  for (const auto& file : other_tools_files())
    for (const auto& line : split(file.text, '\n'))
      if (line.starts_with(start)) return line.substr(start.size());
  return "";
}

}  // namespace

std::string migration_hint(const std::string& section, const std::string& key) {
  const auto found = std::find_if(std::begin(kMigrations), std::end(kMigrations), [&](const Migration& m) { return key == m.from; });
  const std::string to = found == std::end(kMigrations) ? hint_of_plugins(key) : found->to;
  // "r in [adapter]" is of no help to an r inside [adapter].
  if (!section.empty() && to.rfind(key + " in [" + section + "]", 0) == 0) return "";
  return to;
}

std::string not_yet_served(const std::string& section, const std::string& key) {
  for (const auto& later : kLater)
    if (section == later.section && key == later.key) return later.text;
  return "";
}

}  // namespace tenon::host
