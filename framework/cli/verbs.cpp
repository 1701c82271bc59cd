#include "cli/verbs.h"

#include <boost/program_options/value_semantic.hpp>

namespace tenon::host {

namespace {

namespace po = boost::program_options;
using Declare = po::options_description_easy_init;

template <class T>
po::typed_value<T>* value(const char* shown) {
  return po::value<T>()->value_name(shown);
}

const std::vector<Verb>& table() {
  static const auto* const all = new std::vector<Verb>{
      {.name = "run",
       .usage = "recipe.toml",
       .summary = "the pipeline, to the end that the recipe names",
       .takes_recipe = true,
       .declare =
           [](Declare& flag) {
             flag("resume", po::bool_switch(), "go on with a training that stopped, from the newest checkpoint in output.dir");
           },
       .more = "An interrupted training saves its adapter and a checkpoint; train.save_steps saves one every so many steps. Resumed, it "
               "goes on as "
               "if it had not stopped: same data order, optimizer state and dropout."},
      {.name = "plan",
       .usage = "recipe.toml",
       .summary = "what a run would load, where and how large; reads no weights",
       .takes_recipe = true,
       .declare =
           [](Declare& flag) {
             flag("assume-devices", value<std::string>("LIST"), "plan for devices that are not here: \"cuda:0=24GiB,cpu=64GiB\"");
           },
       .more = "A folder with only config.json is enough."},
      {.name = "logits",
       .usage = "recipe.toml --tokens ids.json | --messages messages.json --out logits.safetensors",
       .summary = "the model's output for token ids or conversations, as float32",
       .takes_recipe = true,
       .declare =
           [](Declare& flag) {
             flag("tokens", value<std::string>("FILE"), "JSON: a list of equal-length lists of ids");
             flag("media", value<std::string>("FILE"),
                  "with --tokens: a safetensors file of what the processor makes (pixel_values, input_features)");
             flag("messages", value<std::string>("FILE"), "JSON: a conversation, or a list of them; parts may name pictures");
             flag("add-generation-prompt", po::bool_switch(), "with --messages: end with the start of an answer");
             flag("out", value<std::string>("FILE"),
                  "a safetensors file: logits [batch, time, vocabulary]; with --messages also ids and mask, padded behind");
           }},
      {.name = "generate",
       .usage = "recipe.toml --prompt TEXT | --messages FILE | --chat",
       .summary = "continues text, streaming",
       .takes_recipe = true,
       .declare =
           [](Declare& flag) {
             flag("prompt", value<std::vector<std::string>>("TEXT")->composing(), "a text to continue; may be given several times");
             flag("messages", value<std::string>("FILE"), "JSON: a conversation, or a list of them");
             flag("chat", po::bool_switch(), "talk on the terminal");
             flag("max-new-tokens", value<int64_t>("N"), "tokens at most");
             flag("do-sample", po::bool_switch(), "draw at random, even where the recipe does not");
             flag("temperature", value<double>("X"), "draws at random; 0: the likeliest token");
             flag("top-k", value<int64_t>("K"), "only the K likeliest tokens");
             flag("top-p", value<double>("P"), "only the likeliest tokens that together have this probability");
             flag("min-p", value<double>("P"), "only tokens at least this probable beside the likeliest");
             flag("repetition-penalty", value<double>("X"), "over 1 makes tokens that were there less likely");
             flag("stop", value<std::vector<std::string>>("TEXT")->composing(), "ends the generation; may be given several times");
             flag("seed", value<int64_t>("N"), "of the sampling");
           },
       .more = "The recipe's [generate] gives the defaults. --json prints [{prompt, ids, text, finish_reason}]."},
      {.name = "tokenize",
       .usage = "recipe.toml --text TEXT | --messages FILE",
       .summary = "text to token ids, conversations through the chat template",
       .takes_recipe = true,
       .declare =
           [](Declare& flag) {
             flag("text", value<std::string>("TEXT"), "plain text");
             flag("messages", value<std::string>("FILE"), "JSON: a conversation");
             flag("add-generation-prompt", po::bool_switch(), "end with the start of an answer");
             flag("media-out", value<std::string>("FILE"),
                  "a safetensors file: what the processor makes of the media (pixel_values, input_features)");
           }},
      {.name = "data",
       .usage = "recipe.toml",
       .summary = "what training would see: tokens, labels, counts, warnings",
       .takes_recipe = true,
       .declare = [](Declare& flag) { flag("limit", value<int64_t>("N"), "samples shown"); }},
      {.name = "eval", .usage = "recipe.toml", .summary = "loss and perplexity of the evaluation data", .takes_recipe = true},
      {.name = "export",
       .usage = "recipe.toml --to FOLDER",
       .summary = "writes model or adapter files",
       .takes_recipe = true,
       .declare =
           [](Declare& flag) {
             flag("to", value<std::string>("FOLDER"), "where to");
             flag("format", value<std::string>("NAME"), "hf, peft, or what a plugin declares");
             flag("merge", po::bool_switch(), "add adapters into the weights");
             flag("verify", po::bool_switch(), "load what was written and compare");
           }},
      {.name = "plugins",
       .usage = "list | describe NAME | why NAME | pin [NAME] | new KIND NAME",
       .summary = "what is there, what it takes, why not, what is trusted",
       .max_words = 3,
       .declare =
           [](Declare& flag) {
             flag("kind", value<std::string>("K"), "list: quantizer, architecture, patch, adapter, objective or text");
             flag("modality", value<std::string>("M"), "list: architectures that take text, image, audio ...");
             flag("method", value<std::string>("Q"), "list: quantizers that read checkpoints of this quant_method");
             flag("mode", value<std::string>("MODE"), "pin: from now on user, pinned or bundled plugins are used");
             flag("tier", value<std::string>("TIER"), "new: stable (quantizers) or native");
             flag("to", value<std::string>("FOLDER"), "new: where to, by default ./NAME");
             flag("remove", po::bool_switch(), "pin: forget the pin of NAME");
             flag("toml", po::bool_switch(), "describe: as a piece of a recipe");
             flag("markdown", po::bool_switch(), "describe: as in docs/recipe.md");
           },
       .more = "NAME is a provider's name, kind:name, a plugin's id or its file. pin without a NAME pins all that do not come with host. "
               "new writes a project; KIND is quantizer, patch, adapter, architecture or objective."},
      {.name = "check-plugin",
       .usage = "FILE",
       .summary = "tries a plugin in child processes; exit status 4 when a check fails",
       .max_words = 1,
       .declare =
           [](Declare& flag) {
             flag("only", value<std::string>("GLOB"), "checks whose id matches, or id@kind:name: \"quantizer.*\"");
             flag("level", value<int64_t>("1-3"),
                  "1: quick, with default options; 2: each option tried (default); 3: random options and shapes too");
             flag("seed", value<int64_t>("N"), "of everything drawn at random (default 0)");
             flag("reproduce", value<int64_t>("SEED"), "one random case of level 3 again, as its failure named it");
             flag("timeout", value<double>("SECONDS"), "for one check (default 60)");
             flag("report", value<std::string>("RECIPE"),
                  "no checks: perplexity, KL divergence to full precision, bits per weight, load and decode speed of the file's quantizer "
                  "with the recipe's model and evaluation data");
             flag("baseline", value<std::string>("NAME"), "report: the quantizer beside it");
             flag("junit", value<std::string>("FILE"), "write the results as JUnit XML too");
             flag("list", po::bool_switch(), "the checks, their levels and what each protects from");
           },
       .more = "Each line of the result is a check: pass, fail, skip, crash or timeout, with the reason and what it protects from."},
      {.name = "doctor", .usage = "", .summary = "versions, CPU, devices, plugin folders, in one page to paste"},
      {.name = "version", .usage = "", .summary = "the version", .needs = Needs::Nothing},
      {.name = "help", .usage = "[VERB]", .summary = "this, or the flags of a verb", .needs = Needs::Nothing, .max_words = 1},
      {.name = "__check",
       .usage = "FILE",
       .summary = "the child of check-plugin",
       .max_words = 1,
       .declare =
           [](Declare& flag) {
             flag("level", value<int64_t>("N"), "as of check-plugin");
             flag("seed", value<int64_t>("N"), "as of check-plugin");
             flag("reproduces", po::bool_switch(), "the seed is that of one random case");
           },
       .is_hidden = true},
      // For bench/run.py and ./dev.
      {.name = "__bench",
       .usage = "recipe.toml [load] [decode] [train] [kernels] [vision=FILE]",
       .summary = "the host's side of bench/run.py",
       .takes_recipe = true,
       .max_words = 5,
       .is_hidden = true},
      {.name = "__docs", .usage = "recipe", .summary = "the recipe reference", .max_words = 1, .is_hidden = true},
  };
  return *all;
}

}  // namespace

const std::vector<Verb>& verbs() { return table(); }

const Verb* find_verb(const std::string& name) {
  for (const auto& verb : table())
    if (verb.name == name) return &verb;
  return nullptr;
}

}  // namespace tenon::host
