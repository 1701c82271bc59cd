#include "options.h"

#include <array>
#include <string_view>

namespace tenon::lora {

namespace {

bool is_name_or_list(const Value& v) {
  if (v.is_null() || v.is_string()) return true;
  if (!v.is_list()) return false;
  for (const auto& item : v.as_list())
    if (!item.is_string()) return false;
  return true;
}

std::string check_names(const Value& v) {
  return is_name_or_list(v) ? "" : concat("expected a string or a list of strings, found ", v.type_name());
}

std::string check_layers(const Value& v) {
  if (v.is_null() || v.is_int()) return "";
  if (!v.is_list()) return concat("expected an int or a list of ints, found ", v.type_name());
  for (const auto& item : v.as_list())
    if (!item.is_int()) return concat("expected ints, found ", item.type_name());
  return "";
}

bool are_ids(const Value& v) {
  if (!v.is_list()) return false;
  for (const auto& item : v.as_list())
    if (!item.is_int()) return false;
  return true;
}

std::string check_ids(const Value& v) { return v.is_null() || are_ids(v) ? "" : "expected a list of token ids"; }

std::string check_token_rows(const Value& v) {
  if (!v.is_table()) return check_ids(v).empty() ? "" : "expected a list of token ids, or a table of module name = list";
  for (const auto& [name, ids] : v.as_table())
    if (!are_ids(ids)) return concat("'", name, "' must be a list of token ids");
  return "";
}

std::string check_pattern(const Value& v, bool whole) {
  if (!v.is_table()) return concat("expected a table of name = number, found ", v.type_name());
  for (const auto& [key, number] : v.as_table())
    if (whole ? !(number.is_int() && number.as_int() > 0) : !number.is_number())
      return concat("'", key, "' must be a ", whole ? "positive int" : "number");
  return "";
}

std::string check_init(const Value& v) {
  if (v.is_bool()) return "";
  if (!v.is_string()) return concat("expected true, false or a string, found ", v.type_name());
  const std::string& name = v.as_string();
  if (name == "default" || name == "gaussian") return "";
  for (std::string_view later : {"loftq", "pissa", "olora", "corda", "eva", "orthogonal", "lora_ga", "mica"})
    if (name.starts_with(later)) return concat("'", name, "' is not served yet: use \"default\" or \"gaussian\"");
  return concat("unknown initialization '", name, "': use \"default\", \"gaussian\" or false");
}

// "default" and true are one.
Value plain_init(const Value& v) { return v.is_string() && v.as_string() == "default" ? Value(true) : v; }

// null, false, 0, "", [] and {} leave a feature off.
bool is_off(const Value& v) {
  if (v.is_null()) return true;
  if (v.is_bool()) return !v.as_bool();
  if (v.is_string()) return v.as_string().empty();
  if (v.is_list()) return v.as_list().empty();
  if (v.is_table()) return v.as_table().empty();
  return v.as_float() == 0;
}

// Keys that are read, and keys that say nothing about what the adapter computes.
constexpr std::array kRead = {"r",
                              "lora_alpha",
                              "lora_dropout",
                              "target_modules",
                              "exclude_modules",
                              "rank_pattern",
                              "alpha_pattern",
                              "bias",
                              "use_rslora",
                              "use_dora",
                              "modules_to_save",
                              "trainable_token_indices",
                              "init_lora_weights",
                              "layers_to_transform",
                              "layers_pattern",
                              "fan_in_fan_out",
                              "peft_type"};
constexpr std::array kHarmless = {"auto_mapping", "base_model_name_or_path", "revision",          "task_type",    "inference_mode",
                                  "peft_version", "megatron_core",           "qalora_group_size", "loftq_config", "eva_config",
                                  "corda_config", "lora_ga_config",          "runtime_config"};

template <class Names>
bool is_among(const Names& names, std::string_view key) {
  for (std::string_view name : names)
    if (name == key) return true;
  return false;
}

// How the file's A and B were started. Some starts change the base weights too, and the file is right only beside those.
std::string check_saved_init(const Value& v) {
  if (v.is_bool() || v.is_null()) return "";
  if (!v.is_string()) return concat("expected a bool or a string, found ", v.type_name());
  const std::string& name = v.as_string();
  if (name == "default" || name == "gaussian" || name == "eva" || name == "orthogonal") return "";
  return concat("'", name, "' changes the base weights as well: convert the adapter to a plain one with PEFT first");
}

Value whole_if_possible(double number) {
  const auto whole = static_cast<int64_t>(number);
  return static_cast<double>(whole) == number ? Value(whole) : Value(number);
}

void replace_if_set(const Value& config, const char* key, Value& target) {
  if (const Value* value = config.find_set(key)) target = *value;
}

template <class T>
void refuse_conflict(std::string& conflicts, const char* name, const T& recipe, const T& fallback, const T& saved,
                     const std::string& recipe_text, const std::string& saved_text) {
  if (recipe == fallback || recipe == saved) return;
  conflicts += concat(conflicts.empty() ? "" : "; ", name, " = ", recipe_text, " in the recipe, ", saved_text, " in the adapter");
}

}  // namespace

OptionTable lora_options() {
  return option_table<LoraOptions>({
      option(&LoraOptions::r, "r", "Rank of the update.", range(1)),
      option(&LoraOptions::lora_alpha, "lora_alpha", "The update is scaled by lora_alpha / r."),
      option(&LoraOptions::lora_dropout, "lora_dropout", "Share of the input that the update does not see while training.",
             checked([](const Value& v) {
               return v.is_number() && v.as_float() >= 0 && v.as_float() < 1 ? "" : std::string("must be at least 0 and below 1");
             })),
      option(&LoraOptions::target_modules, "target_modules",
             "\"all-linear\" (all but the output head), a list of module names (whole or their ends), or a regular expression that matches "
             "whole paths; absent: as PEFT does for the model.",
             checked(check_names)),
      option(&LoraOptions::scope, "scope",
             "Of a model of several parts: which of them target_modules looks at, \"language\", \"vision\", \"audio\", \"projector\", a "
             "list of these, or \"all\"; absent: the language model, but for a regular expression, which matches wherever it matches.",
             checked(check_names)),
      option(&LoraOptions::exclude_modules, "exclude_modules", "Modules left alone: a list of names or a regular expression.",
             checked(check_names)),
      option(&LoraOptions::rank_pattern, "rank_pattern", "r by regular expression on the end of the path; the first match counts.",
             checked([](const Value& v) { return check_pattern(v, true); })),
      option(&LoraOptions::alpha_pattern, "alpha_pattern",
             "lora_alpha by regular expression on the end of the path; the first match counts.",
             checked([](const Value& v) { return check_pattern(v, false); })),
      option(&LoraOptions::bias, "bias",
             "Which biases are trained and saved: \"none\", \"all\" of the model, or those of the adapted modules.",
             one_of({"none", "all", "lora_only"})),
      option(&LoraOptions::use_rslora, "use_rslora", "Scale by lora_alpha / sqrt(r)."),
      option(&LoraOptions::use_dora, "use_dora", "Train the magnitude of each output row apart from its direction (DoRA)."),
      option(&LoraOptions::modules_to_save, "modules_to_save",
             "Linear layers and embeddings (or blocks of them) that are trained whole and saved with the adapter, by name."),
      option(
          &LoraOptions::trainable_token_indices, "trainable_token_indices",
          "Token ids whose rows are trained and saved: a list for the embedding (a tied head follows), or a table of module name = list.",
          checked(check_token_rows)),
      option(
          &LoraOptions::new_tokens, "new_tokens",
          "Token ids whose rows are trained in the embedding and in the head, where nothing else trains these; by default the new ones of "
          "text.add_tokens. Saved as trainable_token_indices.",
          checked(check_ids)),
      option(&LoraOptions::stored_tensors, "stored_tensors",
             "Names of the tensors in the file at path, which the host tells: whole embeddings and output heads among them take the "
             "place of the base's.",
             checked(check_names)),
      option(&LoraOptions::init_lora_weights, "init_lora_weights",
             "\"default\" (or true): A uniform, B zero. \"gaussian\": A normal with deviation 1/r, B zero. false: both random.",
             checked(check_init)),
      option(&LoraOptions::layers_to_transform, "layers_to_transform", "Only blocks with these indices; target_modules must be a list.",
             checked(check_layers)),
      option(&LoraOptions::layers_pattern, "layers_pattern", "Name of the list of blocks that layers_to_transform counts in.",
             checked(check_names)),
      option(&LoraOptions::fan_in_fan_out, "fan_in_fan_out", "Weights stored as (in, out): no model here does.", one_of({false})),
  });
}

void require_served(const LoraOptions& options) {
  if (options.fan_in_fan_out) fail(ErrorCode::Recipe, "fan_in_fan_out = true is not served: no model here stores weights as (in, out)");
  if (!options.layers_to_transform.is_null() && options.target_modules.is_string())
    fail(ErrorCode::Recipe, "layers_to_transform needs target_modules as a list, found \"", options.target_modules.as_string(), "\"");
}

LoraOptions read_peft_config(const Value& config, const LoraOptions& recipe) {
  std::vector<std::string> problems;
  if (config.string_or("peft_type", "LORA") != "LORA")
    problems.push_back(concat("peft_type is '", config.string_or("peft_type", ""), "', expected LORA"));
  for (const auto& [key, value] : config.as_table()) {
    if (is_among(kRead, key) || is_among(kHarmless, key) || is_off(value)) continue;
    problems.push_back(concat("'", key, "' may change what the adapter computes and is not known here"));
  }
  if (std::string init = check_saved_init(config.find("init_lora_weights") ? config.at("init_lora_weights") : Value()); !init.empty())
    problems.push_back("init_lora_weights: " + init);

  LoraOptions o;
  o.scope = "all";  // the file's target_modules say it
  o.r = config.int_or("r", o.r);
  o.lora_alpha = config.float_or("lora_alpha", o.lora_alpha);
  o.lora_dropout = config.float_or("lora_dropout", o.lora_dropout);
  o.bias = config.string_or("bias", o.bias);
  o.use_rslora = config.bool_or("use_rslora", o.use_rslora);
  o.use_dora = config.bool_or("use_dora", o.use_dora);
  o.fan_in_fan_out = config.bool_or("fan_in_fan_out", o.fan_in_fan_out);
  replace_if_set(config, "target_modules", o.target_modules);
  replace_if_set(config, "exclude_modules", o.exclude_modules);
  replace_if_set(config, "rank_pattern", o.rank_pattern);
  replace_if_set(config, "alpha_pattern", o.alpha_pattern);
  replace_if_set(config, "layers_to_transform", o.layers_to_transform);
  replace_if_set(config, "layers_pattern", o.layers_pattern);
  if (const Value* tokens = config.find_set("trainable_token_indices"); tokens && !is_off(*tokens)) o.trainable_token_indices = *tokens;
  o.stored_tensors = recipe.stored_tensors;
  o.init_lora_weights = true;
  if (const Value* modules = config.find_set("modules_to_save"); modules && !is_off(*modules)) {
    const std::string problem = modules->is_list() ? check_names(*modules) : concat("expected a list, found ", modules->type_name());
    if (!problem.empty())
      problems.push_back("modules_to_save: " + problem);
    else
      for (const auto& item : modules->as_list()) o.modules_to_save.push_back(item.as_string());
  }
  if (o.bias != "none" && o.bias != "all" && o.bias != "lora_only")
    problems.push_back(concat("bias is '", o.bias, "', expected none, all or lora_only"));
  if (o.fan_in_fan_out) problems.push_back("fan_in_fan_out is true, only false is served");
  if (o.r < 1) problems.push_back(concat("r is ", o.r, ", expected a positive int"));
  for (auto [name, text] : {std::pair{"target_modules", check_names(o.target_modules)},
                            {"exclude_modules", check_names(o.exclude_modules)},
                            {"rank_pattern", check_pattern(o.rank_pattern, true)},
                            {"alpha_pattern", check_pattern(o.alpha_pattern, false)},
                            {"layers_to_transform", check_layers(o.layers_to_transform)},
                            {"layers_pattern", check_names(o.layers_pattern)},
                            {"trainable_token_indices", check_token_rows(o.trainable_token_indices)}})
    if (!text.empty()) problems.push_back(concat(name, ": ", text));
  if (!problems.empty()) {
    std::string text;
    for (const auto& problem : problems) text += concat(text.empty() ? "" : "; ", problem);
    fail(ErrorCode::Data, "adapter_config.json: ", text);
  }

  std::string conflicts;
  const LoraOptions fallback;
  refuse_conflict(conflicts, "r", recipe.r, fallback.r, o.r, concat(recipe.r), concat(o.r));
  refuse_conflict(conflicts, "lora_alpha", recipe.lora_alpha, fallback.lora_alpha, o.lora_alpha, concat(recipe.lora_alpha),
                  concat(o.lora_alpha));
  refuse_conflict(conflicts, "use_rslora", recipe.use_rslora, fallback.use_rslora, o.use_rslora, "true", "false");
  refuse_conflict(conflicts, "use_dora", recipe.use_dora, fallback.use_dora, o.use_dora, "true", "false");
  refuse_conflict(conflicts, "bias", recipe.bias, fallback.bias, o.bias, recipe.bias, o.bias);
  refuse_conflict(conflicts, "modules_to_save", recipe.modules_to_save, fallback.modules_to_save, o.modules_to_save, "one thing",
                  "another");
  refuse_conflict(conflicts, "trainable_token_indices", recipe.trainable_token_indices, Value(), o.trainable_token_indices, "one thing",
                  "another");
  const bool is_expanded =
      recipe.target_modules.is_string() && recipe.target_modules.as_string() == "all-linear";  // the file holds names instead
  if (!is_expanded) refuse_conflict(conflicts, "target_modules", recipe.target_modules, Value(), o.target_modules, "one thing", "another");
  refuse_conflict(conflicts, "rank_pattern", recipe.rank_pattern, fallback.rank_pattern, o.rank_pattern, "one thing", "another");
  refuse_conflict(conflicts, "alpha_pattern", recipe.alpha_pattern, fallback.alpha_pattern, o.alpha_pattern, "one thing", "another");
  if (!conflicts.empty())
    fail(ErrorCode::Recipe, conflicts, ": an adapter that is continued keeps its shape, so leave these keys out of the recipe");
  if (recipe.lora_dropout != fallback.lora_dropout) o.lora_dropout = recipe.lora_dropout;
  return o;
}

Value write_peft_config(const LoraOptions& options, const Value& targets, const Value& tokens, const std::string& base_model,
                        const Value& saved) {
  Value out = saved;
  auto keep = [&](const char* key, Value value) {
    if (!out.find(key)) out.set(key, std::move(value));
  };
  if (out.is_null()) {
    // PEFT sorts its keys.
    keep("alora_invocation_tokens", {});
    out.set("alpha_pattern", options.alpha_pattern);
    for (const char* key : {"arrow_config", "auto_mapping"}) keep(key, {});
    out.set("base_model_name_or_path", Value());
    out.set("bias", options.bias);
    keep("corda_config", {});
    keep("ensure_weight_tying", false);
    keep("eva_config", {});
    keep("exclude_modules", {});
    keep("fan_in_fan_out", options.fan_in_fan_out);
    keep("inference_mode", true);
    const Value init = plain_init(options.init_lora_weights);
    keep("init_lora_weights", init);
    for (const char* key : {"kasa_config", "layer_replication", "layers_pattern", "layers_to_transform"}) keep(key, {});
    keep("loftq_config", Value::table());
    keep("lora_alpha", {});
    keep("lora_bias", false);
    keep("lora_dropout", {});
    for (const char* key : {"lora_ga_config", "megatron_config"}) keep(key, {});
    keep("megatron_core", "megatron.core");
    for (const char* key : {"modules_to_save", "monteclora_config"}) keep(key, {});
    keep("peft_type", "LORA");
    keep("peft_version", "0.21.2");
    keep("qalora_group_size", 16);
    keep("r", {});
    keep("rank_pattern", {});
    for (const char* key : {"revision", "target_modules", "target_parameters"}) keep(key, {});
    keep("task_type", "CAUSAL_LM");
    for (const char* key : {"trainable_token_indices", "use_bdlora"}) keep(key, {});
    for (const char* key : {"use_dora", "use_qalora", "use_rslora"}) keep(key, false);
    keep("velora_config", {});
  }
  out.set("base_model_name_or_path", base_model.empty() ? Value() : Value(base_model));
  out.set("inference_mode", true);
  out.set("r", options.r);
  out.set("lora_alpha", whole_if_possible(options.lora_alpha));
  out.set("lora_dropout", options.lora_dropout);
  out.set("rank_pattern", options.rank_pattern);
  out.set("alpha_pattern", options.alpha_pattern);
  out.set("use_rslora", options.use_rslora);
  out.set("use_dora", options.use_dora);
  out.set("bias", options.bias);
  if (!tokens.is_null()) out.set("trainable_token_indices", tokens);
  if (!options.modules_to_save.empty()) out.set("modules_to_save", options.modules_to_save);
  out.set("exclude_modules", options.exclude_modules);
  out.set("layers_to_transform", options.layers_to_transform);
  out.set("layers_pattern", options.layers_pattern);
  // "all-linear" and PEFT's defaults are written as the names they stood for.
  out.set("target_modules", targets);
  return out;
}

}  // namespace tenon::lora
