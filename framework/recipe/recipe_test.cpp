#include "recipe/recipe.h"

#include "base/embedded.h"
#include "base/json.h"
#include "base/options.h"
#include "base/text.h"
#include "recipe/schema.h"
#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {

const std::string kModel = "[model]\npath = \"m\"\n";

std::vector<std::string> problems(const std::string& toml, const std::vector<std::string>& settings = {}) {
  try {
    parse_recipe(toml, "r.toml", settings);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Recipe);
    return split(error.message(), '\n');
  }
  return {};
}
std::string only_problem(const std::string& toml, const std::vector<std::string>& settings = {}) {
  const auto all = problems(toml, settings);
  CAPTURE(join(all, "\n"));
  CHECK(all.size() == 1);
  return all.empty() ? "" : all.front();
}

}  // namespace

TEST_CASE("the least recipe has every default") {
  const Recipe recipe = parse_recipe(kModel, "/r/sub/../r.toml");
  CHECK(recipe.model.path == "/r/m");
  CHECK(recipe.model.dtype == "auto");
  CHECK(recipe.model.device_map.as_string() == "auto");
  CHECK(recipe.quantizers.empty());
  CHECK_FALSE(recipe.train.has_value());
  CHECK_FALSE(recipe.data.has_value());
  CHECK(recipe.generate.max_new_tokens == GenerateSection().max_new_tokens);
  CHECK(recipe.resolved.at("model").at("init").as_string() == "pretrained");
}

TEST_CASE("a whole recipe reaches its structs, plugin options stay with their places") {
  const Recipe recipe = parse_recipe(R"(
[model]
path = "/abs/m"
dtype = "bfloat16"
device_map = { "model.layers" = "cuda:0", lm_head = "cpu" }
max_memory = { "cuda:0" = "20GiB", cpu = 1024 }
max_host_memory = "8GiB"
overrides = { max_position_embeddings = 8192 }
[[quantizer]]
type = "q1"
modules = ["mlp"]
zebra = 1
apple = 2.5
[[quantizer]]
type = "q2"
skip_modules = []
embeddings = true
[[patch]]
type = "p"
factor = 4.0
[adapter]
type = "a"
path = "old"
r = 16
[text]
chat_template = "t.jinja"
[data]
train = ["a.jsonl", { path = "b.jsonl", format = "alpaca", weight = 0.5 }]
eval = ["e.jsonl"]
fields = { messages = "conversations" }
overlong = "truncate"
[train]
objective = "o"
gradient_checkpointing = true
max_steps = 3
[train.o]
beta = 0.1
[generate]
stop = ["END"]
[export]
merge = true
[output]
dir = "runs/x"
)",
                                     "/r/r.toml");
  CHECK(recipe.model.device_map.at("lm_head").as_string() == "cpu");
  CHECK(recipe.model.max_memory.at("cuda:0") == int64_t{20} << 30);
  CHECK(recipe.model.max_memory.at("cpu") == 1024);
  CHECK(*recipe.model.max_host_memory == int64_t{8} << 30);
  CHECK(recipe.model.overrides.at("max_position_embeddings").as_int() == 8192);
  REQUIRE(recipe.quantizers.size() == 2);
  CHECK(to_json(recipe.quantizers[0].options) == R"({"zebra":1,"apple":2.5})");
  CHECK(recipe.quantizers[0].options.at("apple").place.line == 13);
  CHECK_FALSE(recipe.quantizers[0].skip_modules.has_value());
  CHECK(recipe.quantizers[1].skip_modules->empty());
  CHECK(recipe.quantizers[1].embeddings);
  CHECK(recipe.patches.at(0).options.at("factor").as_float() == 4.0);
  CHECK(recipe.adapters.at(0).path == "/r/old");
  CHECK(recipe.adapters[0].name == "default");
  CHECK(recipe.text.chat_template == "/r/t.jinja");
  REQUIRE(recipe.data->train.size() == 2);
  CHECK(recipe.data->train[0].path == "/r/a.jsonl");
  CHECK(recipe.data->train[1].format == "alpaca");
  CHECK(recipe.data->train[1].weight == 0.5);
  CHECK(recipe.data->fields.at("messages") == "conversations");
  CHECK(recipe.train->gradient_checkpointing == "true");
  CHECK(recipe.train->objective_options.at("beta").as_float() == 0.1);
  CHECK(recipe.generate.stop == std::vector<std::string>{"END"});
  CHECK(recipe.export_->merge);
  CHECK(*recipe.output_dir == "/r/runs/x");
  CHECK(recipe.resolved.at("train").at("o").at("beta").as_float() == 0.1);
  CHECK(recipe.resolved.at("quantizer").as_list().size() == 2);
  CHECK(recipe.resolved.at("train").at("weight_decay").as_float() == 0);
}

TEST_CASE("settings win, and carry their own name in errors") {
  const Recipe recipe = parse_recipe(kModel + "dtype = \"float32\"", "r.toml", {"model.dtype=bfloat16", "generate.top_k=5"});
  CHECK(recipe.model.dtype == "bfloat16");
  CHECK(recipe.generate.top_k == 5);
  CHECK(only_problem(kModel, {"generate.top_k=5", "generate.top_k=-5"}) ==
        "--set generate.top_k: 'generate.top_k': expected at least 0, found -5");
  CHECK(only_problem(kModel, {"generate.topk=5"}) == "--set generate.topk: unknown key 'topk' in [generate], did you mean 'top_k'?");
  CHECK(locate(recipe, {3, 1}) == "r.toml:3:1");
  CHECK(locate(recipe, {0, 2}) == "--set generate.top_k");
  CHECK(locate(recipe, {}) == "r.toml");
}

TEST_CASE("all problems come in one report, from top to bottom") {
  const auto all = problems("[model]\ndtype = \"bf16\"\n[train]\nseed = \"x\"\n[modle]\n", {"train.max_steps=x"});
  REQUIRE(all.size() == 6);
  CHECK(all[0] == "r.toml:1:2: [model] needs a 'path': the checkpoint's folder");
  CHECK(all[1] == "r.toml:2:1: 'model.dtype': expected one of bfloat16, float16, float32, auto, found \"bf16\"");
  CHECK(all[2] == "r.toml:3:2: [train] needs [data] with 'train' files");
  CHECK(all[3] == "r.toml:4:1: 'train.seed': expected int, found string");
  CHECK(all[4] == "r.toml:5:2: unknown table or key 'modle', did you mean 'model'?");
  CHECK(all[5] == "--set train.max_steps: 'train.max_steps': expected int, found string");
}

TEST_CASE("every row of the schema is documented, has a default of its own type, and refuses another type") {
  for (const auto& section : recipe_schema()) {
    CHECK_FALSE(section.doc.empty());
    for (const auto& row : section.table.rows) {
      CAPTURE(section.name + "." + row.name);
      CHECK_FALSE(row.doc.empty());
      // A list of numbers is right for no key.
      const Value wrong(Value::List{1, 2.5});
      CHECK_FALSE(check_value(row, wrong).empty());
    }
  }
}

TEST_CASE("hints lead to keys that exist") {
  for (const char* key : {"base_model", "micro_batch_size", "sequence_len", "load_in_4bit", "num_epochs", "output_dir", "optimizer"}) {
    CAPTURE(key);
    const std::string hint = migration_hint("", key);
    REQUIRE_FALSE(hint.empty());
    const size_t open = hint.find('['), close = hint.find(']');
    REQUIRE(open != std::string::npos);
    CHECK_NOTHROW(schema_section(hint.substr(open + 1, close - open - 1)));
  }
  CHECK(migration_hint("", "no_such_thing").empty());
  CHECK(migration_hint("adapter", "no_such_thing").empty());
  // What the bundled plugins say of theirs.
  size_t hints = 0;
  for (const auto& file : other_tools_files())
    for (const auto& line : split(file.text, '\n')) {
      if (line.empty() || line.starts_with('#')) continue;
      CAPTURE(line);
      const size_t equals = line.find(" = ");
      REQUIRE(equals != std::string::npos);
      CHECK(migration_hint("", line.substr(0, equals)) == line.substr(equals + 3));
      const size_t open = line.rfind('['), close = line.find(']', open);
      REQUIRE((open != std::string::npos && close != std::string::npos));
      CHECK_NOTHROW(schema_section(line.substr(open + 1, close - open - 1)));
      ++hints;
    }
  CHECK(hints > 0);
}
