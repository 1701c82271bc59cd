#include "targets.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "support/errors.h"

using namespace tenon;
using namespace tenon::lora;
using tenon::testing::error_of;

namespace {

Blueprint two_layers(int layers = 2) {
  Blueprint blueprint;
  blueprint.model_type = "llama";
  auto add = [&](std::string path, SlotKind kind = SlotKind::Linear, SlotRole role = SlotRole::Inner) {
    SlotSpec slot;
    slot.path = std::move(path);
    slot.kind = kind;
    slot.role = role;
    slot.out = slot.in = 8;
    blueprint.slots.push_back(std::move(slot));
  };
  add("model.embed_tokens", SlotKind::Embedding, SlotRole::InputEmbedding);
  for (int i = 0; i < layers; ++i)
    for (const char* name :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
      add(concat("model.layers.", i, ".", name));
  add("lm_head", SlotKind::Linear, SlotRole::OutputHead);
  return blueprint;
}

Value list(std::vector<std::string> names) { return Value(names); }

std::vector<std::string> found(const Value& targets, const std::function<void(LoraOptions&)>& change = nullptr) {
  LoraOptions options;
  options.target_modules = targets;
  if (change) change(options);
  return find_targets(options, two_layers(), false).paths;
}

using Paths = std::vector<std::string>;

}  // namespace

TEST_CASE("absent targets are PEFT's for the model type") {
  CHECK(found({}) == Paths{"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.q_proj",
                           "model.layers.1.self_attn.v_proj"});
  Blueprint other = two_layers();
  other.model_type = "novel";
  CHECK(error_of([&] { find_targets({}, other, false); }).find("no default for model_type 'novel'") != std::string::npos);
}

TEST_CASE("all-linear is every linear layer but the head") {
  const Paths paths = found("all-linear");
  CHECK(paths.size() == 14);
  CHECK(paths.front() == "model.layers.0.self_attn.q_proj");
  CHECK(paths.back() == "model.layers.1.mlp.down_proj");
}

TEST_CASE("names match whole paths or their ends at a dot") {
  CHECK(found(list({"q_proj"})).size() == 2);
  CHECK(found(list({"layers.1.self_attn.q_proj", "embed_tokens", "lm_head"})) ==
        Paths{"model.embed_tokens", "model.layers.1.self_attn.q_proj", "lm_head"});
  CHECK(error_of([] { found(list({"q_proj", "proj"})); }).find("no module is named 'proj'; there are ") != std::string::npos);
  CHECK(error_of([] { found(list({"gate_porj"})); }).find("there are gate_proj, ") != std::string::npos);
}

TEST_CASE("a regular expression must match the whole path") {
  CHECK(found(".*\\.0\\..*(q|k)_proj") == Paths{"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"});
  CHECK(error_of([] { found("q_proj"); }).find("leaves no module to adapt") != std::string::npos);
  CHECK(error_of([] { found("(q_proj"); }).find("not a regular expression") != std::string::npos);
}

TEST_CASE("excluded modules and other layers are left out") {
  CHECK(found("all-linear", [](LoraOptions& o) { o.exclude_modules = list({"mlp.up_proj", "q_proj"}); }).size() == 10);
  CHECK(found("all-linear", [](LoraOptions& o) { o.exclude_modules = ".*mlp.*"; }).size() == 8);
  CHECK(found(list({"q_proj"}), [](LoraOptions& o) { o.layers_to_transform = 1; }) == Paths{"model.layers.1.self_attn.q_proj"});
  CHECK(found(list({"q_proj"}), [](LoraOptions& o) {
          o.layers_to_transform = Value(std::vector<int64_t>{0}), o.layers_pattern = "layers";
        }) == Paths{"model.layers.0.self_attn.q_proj"});
  CHECK(error_of([] {
          found(list({"q_proj"}), [](LoraOptions& o) { o.layers_to_transform = 0, o.layers_pattern = "h"; });
        }).find("leaves no module") != std::string::npos);
}

TEST_CASE("the first matching pattern in file order gives rank and alpha") {
  LoraOptions options;
  options.r = 8;
  options.lora_alpha = 16;
  options.rank_pattern.set("layers.1.self_attn.q_proj", 2);
  options.rank_pattern.set("q_proj", 4);
  options.rank_pattern.set(".*layers.0.*", 32);
  options.alpha_pattern.set("(q|k)_proj", 3);
  CHECK(rank_of(options, "model.layers.1.self_attn.q_proj") == 2);
  CHECK(rank_of(options, "model.layers.0.self_attn.q_proj") == 4);
  CHECK(rank_of(options, "model.layers.0.self_attn.k_proj") == 32);
  CHECK(rank_of(options, "model.layers.1.self_attn.xq_proj") == 8);  // the border is a dot
  CHECK(alpha_of(options, "model.layers.1.self_attn.k_proj") == 3);
  CHECK(scaling_of(options, "model.layers.1.self_attn.q_proj") == 1.5);
  options.use_rslora = true;
  CHECK(scaling_of(options, "model.layers.0.self_attn.q_proj") == 1.5);
}

TEST_CASE("long lists are written as the shortest names that tell targets from the rest") {
  LoraOptions options;
  options.target_modules = "all-linear";
  CHECK(find_targets(options, two_layers(2), false).written.as_list().size() == 14);
  CHECK(find_targets(options, two_layers(3), false).written ==
        list({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}));
  // A module of the same name that is no target makes the names longer.
  Blueprint with_vision = two_layers(3);
  with_vision.slots.front().path = "vision.q_proj";
  Paths names;
  const Value written = find_targets(options, with_vision, false).written;
  for (const Value& name : written.as_list()) names.push_back(name.as_string());
  CHECK(std::find(names.begin(), names.end(), "q_proj") == names.end());
  CHECK(std::find(names.begin(), names.end(), "self_attn.q_proj") != names.end());
  CHECK(std::find(names.begin(), names.end(), "k_proj") != names.end());
  // Exclusions are told apart by their own key.
  options.exclude_modules = list({"layers.0.mlp.up_proj"});
  CHECK(find_targets(options, two_layers(2), false).written.as_list().size() == 14);
}

// A language model with a tower and a projector beside it, whose checkpoint has the older names.
Blueprint with_tower() {
  Blueprint blueprint = two_layers(2);
  for (auto& slot : blueprint.slots)
    if (slot.path != "lm_head") {
      slot.file_path = "language_model." + slot.path;
      slot.path = "model.language_model." + slot.path.substr(6);
    }
  for (const char* name : {"layers.0.q_proj", "layers.0.fc1", "layers.1.q_proj", "layers.1.fc1"}) {
    SlotSpec slot;
    slot.path = concat("model.vision_tower.", name), slot.file_path = concat("vision_tower.", name);
    slot.part = "vision", slot.out = slot.in = 8;
    blueprint.slots.push_back(slot);
  }
  SlotSpec projector;
  projector.path = "model.multi_modal_projector.linear_1", projector.file_path = "multi_modal_projector.linear_1";
  projector.part = "projector", projector.out = projector.in = 8;
  blueprint.slots.push_back(projector);
  return blueprint;
}

TEST_CASE("scope says in which part of a model targets lie; the language model unless it is said") {
  const auto count = [](const Value& targets, const Value& scope, const char* part) {
    LoraOptions options;
    options.target_modules = targets, options.scope = scope;
    const Blueprint blueprint = with_tower();
    int64_t in_part = 0;
    for (const auto& path : find_targets(options, blueprint, false).paths) in_part += blueprint.find_slot(path)->part == part;
    return in_part;
  };
  for (const Value& targets : {Value("all-linear"), list({"q_proj"})}) {
    const int64_t language = targets.is_list() ? 2 : 14, vision = targets.is_list() ? 2 : 4;
    CHECK(count(targets, {}, "") == language);
    CHECK(count(targets, {}, "vision") == 0);
    CHECK(count(targets, "vision", "") == 0);
    CHECK(count(targets, "vision", "vision") == vision);
    CHECK(count(targets, "all", "") == language);
    CHECK(count(targets, "all", "vision") == vision);
    CHECK(count(targets, list({"language", "vision"}), "vision") == vision);
  }
  CHECK(count("all-linear", "projector", "projector") == 1);
  CHECK(count(".*vision.*q_proj", {}, "vision") == 2);  // a regular expression means what it matches
  CHECK(error_of([&] { count("all-linear", "audio", ""); }) == "scope: the model has no part 'audio'; it has language, projector, vision");
  CHECK(error_of([&] { count(list({"fc1"}), {}, ""); }).find("within scope \"language\": set scope") != std::string::npos);
}

TEST_CASE("a scope is written so that PEFT finds the same modules, under the names of either layout") {
  LoraOptions options;
  options.target_modules = list({"q_proj"});
  const Blueprint blueprint = with_tower();
  const TargetSet scoped = find_targets(options, blueprint, false);
  REQUIRE(scoped.written.is_string());
  // What the file says, read back without any scope.
  LoraOptions again = read_peft_config(write_peft_config(options, scoped.written, {}, "base", {}), {});
  CHECK(find_targets(again, blueprint, true).paths == scoped.paths);
  Blueprint older = blueprint;
  for (auto& slot : older.slots)
    if (!slot.file_path.empty()) slot.path = slot.file_path;
  CHECK(find_targets(again, older, true).paths.size() == 2);
  // PEFT takes layers_to_transform beside a list alone.
  options.layers_to_transform = 1;
  CHECK(find_targets(options, blueprint, false).written == list({"model.language_model.layers.1.self_attn.q_proj"}));
}

TEST_CASE("a fresh config has PEFT's keys in its order") {
  LoraOptions options;
  options.lora_alpha = 16;
  const Value config = write_peft_config(options, list({"a", "b"}), {}, "base", {});
  // As PEFT 0.21.2 writes them.
  const Paths keys{"alora_invocation_tokens",
                   "alpha_pattern",
                   "arrow_config",
                   "auto_mapping",
                   "base_model_name_or_path",
                   "bias",
                   "corda_config",
                   "ensure_weight_tying",
                   "eva_config",
                   "exclude_modules",
                   "fan_in_fan_out",
                   "inference_mode",
                   "init_lora_weights",
                   "kasa_config",
                   "layer_replication",
                   "layers_pattern",
                   "layers_to_transform",
                   "loftq_config",
                   "lora_alpha",
                   "lora_bias",
                   "lora_dropout",
                   "lora_ga_config",
                   "megatron_config",
                   "megatron_core",
                   "modules_to_save",
                   "monteclora_config",
                   "peft_type",
                   "peft_version",
                   "qalora_group_size",
                   "r",
                   "rank_pattern",
                   "revision",
                   "target_modules",
                   "target_parameters",
                   "task_type",
                   "trainable_token_indices",
                   "use_bdlora",
                   "use_dora",
                   "use_qalora",
                   "use_rslora",
                   "velora_config"};
  Paths written;
  for (const auto& [key, value] : config.as_table()) written.push_back(key);
  CHECK(written == keys);
  CHECK(config.at("lora_alpha").is_int());
  CHECK(config.at("target_modules") == list({"a", "b"}));
  CHECK(config.at("base_model_name_or_path").as_string() == "base");
  CHECK(config.at("inference_mode").as_bool());
}

TEST_CASE("an older config with few keys is read with PEFT's defaults") {
  Value saved;
  saved.set("peft_type", "LORA");
  saved.set("r", 64);
  saved.set("lora_alpha", 16);
  saved.set("lora_dropout", 0.1);
  saved.set("target_modules", list({"q_proj", "v_proj"}));
  saved.set("modules_to_save", Value());
  saved.set("enable_lora", Value());
  const LoraOptions options = read_peft_config(saved, {});
  CHECK(options.r == 64);
  CHECK(options.lora_alpha == 16);
  CHECK(options.lora_dropout == 0.1);
  CHECK_FALSE(options.use_rslora);
  // What the file said besides stays, in its order.
  const Value again = write_peft_config(options, options.target_modules, {}, "base", saved);
  CHECK(again.as_table().front().first == "peft_type");
  CHECK(again.find("enable_lora") != nullptr);
  CHECK(again.at("r").as_int() == 64);
}

TEST_CASE("keys that change the mathematics are refused, all of them at once") {
  Value saved;
  saved.set("peft_type", "LORA");
  saved.set("use_qalora", true);
  saved.set("use_bdlora", Value());
  saved.set("target_parameters", list({"experts"}));
  saved.set("lora_bias", true);
  saved.set("init_lora_weights", "pissa_niter_4");
  saved.set("from_the_future", 1);
  saved.set("bias", "some");
  const std::string text = error_of([&] { read_peft_config(saved, {}); });
  for (const char* key : {"'use_qalora'", "'target_parameters'", "'lora_bias'", "pissa_niter_4", "'from_the_future'", "bias is 'some'"}) {
    INFO(text);
    CHECK(text.find(key) != std::string::npos);
  }
  CHECK(text.find("use_bdlora") == std::string::npos);
  Value other;
  other.set("peft_type", "IA3");
  CHECK(error_of([&] { read_peft_config(other, {}); }).find("peft_type is 'IA3', expected LORA") != std::string::npos);
}

TEST_CASE("a recipe that asks for another shape than the file has is refused, dropout is its own") {
  Value saved;
  saved.set("r", 8);
  saved.set("lora_dropout", 0.1);
  LoraOptions recipe;
  recipe.r = 16;
  CHECK(error_of([&] { read_peft_config(saved, recipe); }).find("r = 16 in the recipe, 8 in the adapter") != std::string::npos);
  recipe.r = 8;
  recipe.lora_dropout = 0.3;
  recipe.target_modules = "all-linear";
  CHECK(read_peft_config(saved, recipe).lora_dropout == 0.3);
}

TEST_CASE("what is not served yet says so") {
  LoraOptions options;
  options.fan_in_fan_out = true;
  CHECK(error_of([&] { require_served(options); }).find("not served") != std::string::npos);
  for (const auto& row : lora_options().rows)
    if (row.name == "init_lora_weights") {
      CHECK(row.constraint.check(Value("loftq")).find("not served yet") != std::string::npos);
      CHECK(row.constraint.check(Value("default")).empty());
      CHECK(row.constraint.check(Value(false)).empty());
    }
}

TEST_CASE("modules_to_save takes what it names, or contains, away from the targets") {
  LoraOptions options;
  options.target_modules = list({"q_proj", "up_proj"});
  options.modules_to_save = {"0.mlp", "lm_head"};
  const TargetSet set = find_targets(options, two_layers(), false);
  CHECK(set.whole ==
        std::set<std::string>{"lm_head", "model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"});
  CHECK(set.paths.size() == 7);  // and q_proj twice, up_proj of the other layer
  CHECK(set.biased.empty());

  options.modules_to_save = {"lm_haed"};
  CHECK(error_of([&] { find_targets(options, two_layers(), false); }).find("no module is named 'lm_haed'; there are lm_head") !=
        std::string::npos);
  CHECK(find_targets(options, two_layers(), true).whole.empty());  // a file may have been made for a larger model
  Blueprint blueprint = two_layers();
  blueprint.tensors.push_back({.path = "model.norm.weight", .shape = {8}});
  options.modules_to_save = {"norm"};
  CHECK(error_of([&] { find_targets(options, blueprint, false); }).find("'norm' holds 'model.norm.weight'") != std::string::npos);
}

TEST_CASE("bias = all adds the layers that have a bias and no update") {
  Blueprint blueprint = two_layers();
  for (auto& slot : blueprint.slots) slot.bias = slot.path.ends_with("q_proj") || slot.path.ends_with("k_proj");
  LoraOptions options;
  options.target_modules = list({"q_proj", "up_proj"});
  options.bias = "lora_only";
  CHECK(find_targets(options, blueprint, false).biased.empty());
  options.bias = "all";
  const TargetSet set = find_targets(options, blueprint, false);
  CHECK(set.biased == std::set<std::string>{"model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.k_proj"});
  CHECK(set.paths.size() == 6);
  blueprint.tensors.push_back({.path = "model.norm.bias", .shape = {8}});
  CHECK(error_of([&] { find_targets(options, blueprint, false); }).find("'model.norm.bias' is not the bias of a linear layer") !=
        std::string::npos);
}
