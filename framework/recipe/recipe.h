#pragma once
// The recipe: what the user asks for, read from TOML and checked against the host's schema. Keys and defaults: docs/recipe.md,
// generated from the same tables. Plugin options stay as values; the registry checks them against each plugin's table.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tenon/value.h"

namespace tenon::host {

struct ModelSection {
  std::filesystem::path path;
  std::string init = "pretrained";            // pretrained | random
  std::string dtype = "auto";                 // bfloat16 | float16 | float32 | auto (as the checkpoint says)
  Value device_map = "auto";                  // a string or a table "module prefix" = device
  std::map<std::string, int64_t> max_memory;  // bytes by device
  std::optional<int64_t> max_host_memory;
  Value overrides;  // of config.json
  bool inference = false, reference = false;
};

struct QuantizerSection {
  std::string type;
  std::vector<std::string> modules;                      // empty: all
  std::optional<std::vector<std::string>> skip_modules;  // absent: the default rule
  bool embeddings = false;
  Value options;  // the plugin's
  Value::Place place;
};

struct CalibrationSection {
  std::vector<std::filesystem::path> files;
  int64_t samples = 128, length = 2048, seed = 0;
};

struct PatchSection {
  std::string type;
  Value options;
  Value::Place place;
};

struct AdapterSection {
  std::string type;
  std::string name = "default";
  std::filesystem::path path;  // empty: fresh
  Value options;
  Value::Place place;
};

struct TextSection {
  std::string type;                     // empty: the default provider, as plugins declare it
  std::filesystem::path chat_template;  // empty: the checkpoint's
  std::vector<std::string> add_tokens;
  Value options;
  Value::Place place;
};

// How media in messages are read; what is absent is as the checkpoint's processor says.
struct MediaSection {
  std::filesystem::path folder;  // of relative paths in records; empty: that of the file they stand in
  std::optional<int64_t> image_size, min_pixels, max_pixels;
  int64_t decode_limit = 100'000'000;
};

struct DataFile {
  std::filesystem::path path;
  std::string format;  // empty: the section's
  double weight = 1;
};

struct DataSection {
  std::vector<DataFile> train, eval;
  std::string format = "chat";  // chat | alpaca | prompt_completion | completion | tokenized | preference
  std::map<std::string, std::string> fields;
  int64_t max_length = 1024;
  bool packing = false;
  bool shuffle = true;
  std::string overlong = "drop";  // drop | truncate | error
  bool train_on_inputs = false;
};

struct TrainSection {
  std::string objective;    // empty: the plugin whose manifest row says default=yes
  Value objective_options;  // [train.<objective>]
  Value::Place place;
  double learning_rate = 2e-4;
  double num_train_epochs = 1;
  int64_t max_steps = -1;
  int64_t per_device_train_batch_size = 1, per_device_eval_batch_size = 0;  // 0: as for training
  int64_t gradient_accumulation_steps = 1;
  std::string optim = "adamw";
  std::vector<std::string> freeze;  // parts, modules or expressions: model/freeze.h
  double weight_decay = 0, adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8, max_grad_norm = 1.0;
  std::string lr_scheduler_type = "linear";  // linear | cosine | constant | constant_with_warmup
  double warmup_ratio = 0;
  int64_t warmup_steps = 0;
  std::string gradient_checkpointing = "auto";  // auto | true | false
  int64_t seed = 42;
  int64_t logging_steps = 1, eval_steps = 0, save_steps = 0, save_total_limit = 0;  // 0: never / at the end only / no limit
  bool eval_on_start = false;
};

struct GenerateSection {
  int64_t max_new_tokens = 256;
  bool do_sample = false;
  double temperature = 1.0, top_p = 1.0, min_p = 0.0, repetition_penalty = 1.0;
  int64_t top_k = 0;
  std::vector<std::string> stop;
  int64_t seed = 0;
  std::vector<std::string> prompts;  // `run` with [train]: continued before and after
};

struct ExportSection {
  std::string format;  // hf | peft | a plugin's
  bool merge = false, verify = false;
  std::filesystem::path to;  // relative to output.dir when relative
};

struct Recipe {
  std::filesystem::path file, folder;  // as given; its folder. Paths of the recipe are already resolved against `folder`
  ModelSection model;
  std::vector<QuantizerSection> quantizers;
  std::optional<CalibrationSection> calibration;
  std::vector<PatchSection> patches;
  std::vector<AdapterSection> adapters;
  TextSection text;
  MediaSection media;
  std::optional<DataSection> data;
  std::optional<TrainSection> train;
  GenerateSection generate;
  std::optional<ExportSection> export_;
  std::optional<std::filesystem::path> output_dir;
  std::string plugin_mode;            // pinned | bundled: tighter than the user's configuration; "" as it says
  Value resolved;                     // every key with its value after defaults and --set: goes into run.json
  std::vector<std::string> settings;  // the --set arguments
};

// "file:line:column" of what stood in the file, "--set key" of what the command line brought.
std::string locate(const Recipe& recipe, const Value::Place& place);

// Reads and checks a recipe with the `--set key=value` settings applied. Every problem is found before it throws one Error(Recipe)
// whose message holds a line per problem: "file:line:column: text" ("--set train.x: text" for settings).
Recipe read_recipe(const std::filesystem::path& file, const std::vector<std::string>& settings = {});
Recipe parse_recipe(std::string_view toml, const std::filesystem::path& file, const std::vector<std::string>& settings = {});

}  // namespace tenon::host
