#include "recipe/schema.h"

#include <regex>

#include "base/text.h"
#include "recipe/recipe.h"

// How the types of recipe.h that the SDK does not know are read.
namespace tenon::detail {
template <>
struct OptionCodec<std::filesystem::path> {
  static constexpr const char* type = "path";
  static std::filesystem::path read(const Value& v) { return v.as_string(); }
};
}  // namespace tenon::detail

namespace tenon::host {

namespace {

Constraint at_least(double min) { return range(min); }
Constraint fraction() { return range(0, 1); }
Constraint over_zero() {
  return checked([](const Value& v) { return v.as_float() > 0 ? std::string() : concat("expected more than 0, found ", v.as_float()); });
}
Constraint below_one() {
  return checked([](const Value& v) {
    return v.as_float() >= 0 && v.as_float() < 1 ? std::string() : concat("expected 0 or more and below 1, found ", v.as_float());
  });
}
Constraint not_empty() {
  return checked(
      [](const Value& v) { return v.as_string().empty() ? std::string("expected a path, found an empty string") : std::string(); });
}

bool is_device(const std::string& name) {
  static const std::regex pattern("cpu|cuda(:[0-9]{1,2})?");
  return name.size() < 10 && std::regex_match(name, pattern);
}

// An amount of memory: "20GiB" or bytes.
std::string check_amount(const Value& v) {
  if (v.is_int()) return v.as_int() > 0 ? "" : concat("expected more than 0 bytes, found ", v.as_int());
  if (!v.is_string()) return concat("expected an amount of memory such as \"20GiB\", found ", v.type_name());
  const auto bytes = parse_bytes(v.as_string());
  return bytes && *bytes > 0 ? "" : concat("expected an amount of memory such as \"20GiB\" or \"500MB\", found \"", v.as_string(), "\"");
}
int64_t read_amount(const Value& v) { return v.is_int() ? v.as_int() : parse_bytes(v.as_string()).value(); }

std::string check_device_map(const Value& v) {
  if (v.is_table()) {
    for (const auto& [module, device] : v.as_table())
      if (!device.is_string() || !is_device(device.as_string()))
        return concat("the device of \"", module, "\" must be \"cpu\" or \"cuda:N\"");
    return v.as_table().empty() ? "the table is empty: write \"module prefix\" = \"device\"" : "";
  }
  if (!v.is_string()) return concat("expected string or table, found ", v.type_name());
  const std::string& name = v.as_string();
  if (name == "auto" || name == "balanced" || name == "sequential" || is_device(name)) return "";
  return concat("expected auto, balanced, sequential, cpu, cuda:N or a table, found \"", name, "\"",
                did_you_mean(name, {"auto", "balanced", "sequential", "cpu", "cuda:0"}));
}

std::string check_max_memory(const Value& v) {
  for (const auto& [device, amount] : v.as_table()) {
    if (!is_device(device)) return concat("\"", device, "\" is no device: expected cpu or cuda:N");
    if (const std::string wrong = check_amount(amount); !wrong.empty()) return concat("\"", device, "\": ", wrong);
  }
  return "";
}

std::string check_files(const Value& v) {
  if (!v.is_list()) return concat("expected list of paths or of tables { path, format, weight }, found ", v.type_name());
  for (const auto& item : v.as_list())
    if (!item.is_string() && !item.is_table()) return concat("expected paths or tables { path, format, weight }, found ", item.type_name());
  return "";
}

std::vector<DataFile> read_files(const Value& v) {
  std::vector<DataFile> files;
  for (const auto& item : v.as_list()) {
    if (item.is_string())
      files.push_back({item.as_string(), "", 1});
    else
      files.push_back(read_options<DataFile>(data_file_table(), item));
  }
  return files;
}

std::string check_string_table(const Value& v) {
  for (const auto& [key, name] : v.as_table())
    if (!name.is_string()) return concat("'", key, "': expected string, found ", name.type_name());
  return "";
}

std::string check_names(const Value& v) {
  for (const auto& name : v.as_list())
    if (name.is_string() && name.as_string().empty()) return "expected names, found an empty one";
  return "";
}

std::string check_checkpointing(const Value& v) {
  if (v.is_bool() || (v.is_string() && v.as_string() == "auto")) return "";
  return concat("expected true, false or \"auto\", found ", v.is_string() ? "\"" + v.as_string() + "\"" : std::string(v.type_name()));
}

std::string check_top_p(const Value& v) {
  return v.as_float() > 0 && v.as_float() <= 1 ? "" : concat("expected more than 0 and at most 1, found ", v.as_float());
}

// A row whose value needs its own reading.
template <class Owner>
OptionRow row(std::string name, std::string type, Value default_value, std::string doc, Constraint constraint,
              void (*set)(Owner&, const Value&)) {
  return {std::move(name),          std::move(doc),        std::move(type),
          std::move(default_value), std::move(constraint), [set](void* object, const Value& v) { set(*static_cast<Owner*>(object), v); }};
}

std::vector<Value> data_formats() { return {"chat", "alpaca", "prompt_completion", "completion", "tokenized"}; }

Section model_section() {
  using S = ModelSection;
  return {
      "model",
      "Which checkpoint, in what dtype, and where it goes.",
      SectionShape::Table,
      "",
      {{option(&S::path, "path", "A Hugging Face folder: config.json, safetensors, tokenizer files. Required.", not_empty()),
        option(&S::init, "init", "pretrained reads the weights; random starts from config.json alone.", one_of({"pretrained", "random"})),
        option(&S::dtype, "dtype", "Of dense weights and products; auto: as the checkpoint says.",
               one_of({"bfloat16", "float16", "float32", "auto"})),
        row<S>("device_map", "string or table", "auto",
               "auto, balanced, sequential, cpu, cuda:N, or a table \"module prefix\" = \"device\".", checked(check_device_map),
               [](S& s, const Value& v) { s.device_map = v; }),
        row<S>("max_memory", "table", Value::table(), "Upper bound for each device, as in { \"cuda:0\" = \"20GiB\", cpu = \"64GiB\" }.",
               checked(check_max_memory),
               [](S& s, const Value& v) {
                 for (const auto& [device, amount] : v.as_table()) s.max_memory[device] = read_amount(amount);
               }),
        row<S>("max_host_memory", "bytes", Value(), "Upper bound of the host's peak memory while loading; a plan over it is refused.",
               checked(check_amount), [](S& s, const Value& v) { s.max_host_memory = read_amount(v); }),
        row<S>("overrides", "table", Value::table(), "Values in place of config.json's.", {},
               [](S& s, const Value& v) { s.overrides = v; }),
        option(&S::inference, "inference", "Everything frozen; adapters load for use. Not with [train]."),
        option(&S::reference, "reference", "A frozen reference model without adapters. Not with [train].")}}};
}

Section quantizer_section() {
  using S = QuantizerSection;
  return {"quantizer",
          "How weights are held. Absent: dense, or as the checkpoint says. Of several, the first whose modules match a slot fills it.",
          SectionShape::Repeat,
          "quantizer",
          {{option(&S::type, "type", "A quantizer plugin's name. Required."),
            option(&S::modules, "modules", "Module names (prefix or suffix of the path) that it takes; empty: all."),
            option(&S::skip_modules, "skip_modules", "Modules that stay dense, besides the output head and the embeddings."),
            option(&S::embeddings, "embeddings", "Quantize the embeddings and the output head too.")}}};
}

std::string check_paths(const Value& v) {
  if (!v.is_list()) return concat("expected list of paths, found ", v.type_name());
  for (const auto& item : v.as_list())
    if (!item.is_string() || item.as_string().empty()) return concat("expected paths, found ", item.type_name());
  return "";
}

Section calibration_section() {
  using S = CalibrationSection;
  return {"calibration",
          "Texts for quantizers that look at activations. They are tokenized and laid behind one another; samples are windows of that "
          "stream at random "
          "places.",
          SectionShape::Table,
          "",
          {{row<S>("files", "list of paths", Value::list(),
                   ".jsonl or .json files of records with \"text\", \"messages\" or \"input_ids\", or .txt files. Required.",
                   checked(check_paths),
                   [](S& s, const Value& v) {
                     for (const auto& item : v.as_list()) s.files.emplace_back(item.as_string());
                   }),
            option(&S::samples, "samples", "Windows.", range(1, 1 << 20)),
            option(&S::length, "length", "Tokens in a window; at most what the model's context holds.", range(1, 1 << 24)),
            option(&S::seed, "seed", "Of the places of the windows.", at_least(0))}}};
}

Section patch_section() {
  return {"patch",
          "Changes to the config, the blueprint, the seams or the loaded model, in this order.",
          SectionShape::Repeat,
          "patch",
          {{option(&PatchSection::type, "type", "A patch plugin's name. Required.")}}};
}

Section adapter_section() {
  using S = AdapterSection;
  return {"adapter",
          "Small trainable pieces around slots.",
          SectionShape::Repeat,
          "adapter",
          {{option(&S::type, "type", "An adapter plugin's name. Required."),
            option(&S::name, "name", "Tells several adapters apart; one not named \"default\" is saved in a folder of its name."),
            option(&S::path, "path", "An existing PEFT folder to continue from or to use; empty: a fresh adapter.")}}};
}

std::string check_tokens(const Value& tokens) {
  for (const Value& token : tokens.as_list())
    if (token.is_string() && token.as_string().empty()) return "a token must not be empty";
  return "";
}

Section text_section() {
  using S = TextSection;
  return {"text",
          "Tokenizer and chat template.",
          SectionShape::Table,
          "text",
          {{option(&S::type, "type", "A text plugin's name; empty: the one that calls itself the default."),
            option(&S::chat_template, "chat_template", "A template file in place of the checkpoint's."),
            option(&S::add_tokens, "add_tokens",
                   "New tokens, each kept whole in texts. Where the model has no rows for them it grows, with a patch "
                   "that serves them; an adapter trains and saves their rows.",
                   checked(check_tokens))}}};
}

Section media_section() {
  using S = MediaSection;
  return {
      "media",
      "How pictures and sounds in messages are read; what is absent is as the checkpoint's processor says.",
      SectionShape::Table,
      "",
      {{option(&S::folder, "folder", "Of relative paths in records; absent: the folder of the file they stand in."),
        option(&S::image_size, "image_size", "Pixels of an edge, for models that take more than one size.", at_least(1)),
        option(&S::min_pixels, "min_pixels", "Smaller pictures are enlarged to this area, where the model takes many sizes.", at_least(1)),
        option(&S::max_pixels, "max_pixels", "Larger pictures are reduced to this area, where the model takes many sizes.", at_least(1)),
        option(&S::decode_limit, "decode_limit",
               "A file whose header promises more is refused: pixels of a picture, samples of a channel of a "
               "sound, as it is stored or as the model hears it.",
               at_least(1))}}};
}

Section data_section() {
  using S = DataSection;
  return {"data",
          "What is trained and evaluated on.",
          SectionShape::Table,
          "",
          {{row<S>("train", "list of files", Value::list(), ".jsonl or .json files: paths, or tables { path, format, weight }.",
                   checked(check_files), [](S& s, const Value& v) { s.train = read_files(v); }),
            row<S>("eval", "list of files", Value::list(), "The same, for evaluation.", checked(check_files),
                   [](S& s, const Value& v) { s.eval = read_files(v); }),
            option(&S::format, "format", "How records are laid out.", one_of(data_formats())),
            row<S>("fields", "table", Value::table(), "Renames, as in { messages = \"conversations\" }.", checked(check_string_table),
                   [](S& s, const Value& v) {
                     for (const auto& [key, name] : v.as_table()) s.fields[key] = name.as_string();
                   }),
            option(&S::max_length, "max_length", "Tokens in a row at most.", range(2, 16777216)),
            option(&S::packing, "packing", "Several samples in one row, which do not see each other."),
            option(&S::shuffle, "shuffle", "A new order in each epoch, from train.seed."),
            option(&S::overlong, "overlong", "What happens to longer samples; they are counted and reported.",
                   one_of({"drop", "truncate", "error"})),
            option(&S::train_on_inputs, "train_on_inputs", "Labels on prompts too, not only on answers.")}}};
}

Section train_section() {
  using S = TrainSection;
  return {"train",
          "The training loop; names and defaults are those of transformers. Without it, `host run` loads, reports and, if asked by "
          "[export], writes.",
          SectionShape::Table,
          "objective",
          {{option(&S::objective, "objective",
                   "An objective plugin's name, its options in [train.<name>]; empty: the one that calls itself the default."),
            option(&S::learning_rate, "learning_rate", "Peak learning rate.", over_zero()),
            option(&S::num_train_epochs, "num_train_epochs", "Passes over the data; max_steps wins when both are given.", over_zero()),
            option(&S::max_steps, "max_steps", "Optimizer steps; -1: as many as the epochs need.", at_least(-1)),
            option(&S::per_device_train_batch_size, "per_device_train_batch_size", "Rows in a micro-batch.", at_least(1)),
            option(&S::per_device_eval_batch_size, "per_device_eval_batch_size", "Rows in an evaluation batch; 0: as for training.",
                   at_least(0)),
            option(&S::gradient_accumulation_steps, "gradient_accumulation_steps",
                   "Micro-batches in a step; the loss is normalised by the trained tokens of the whole step.", at_least(1)),
            option(&S::optim, "optim", "The optimizer.", one_of({"adamw"})),
            option(&S::freeze, "freeze",
                   "What stays as it is when a whole model trains (without [adapter]): parts such as \"vision\" and "
                   "\"projector\", modules, or regular expressions for whole paths.",
                   checked(check_names)),
            option(&S::weight_decay, "weight_decay", "Decoupled; not on norms and biases.", range(0)),
            option(&S::adam_beta1, "adam_beta1", "Decay of the first moment.", below_one()),
            option(&S::adam_beta2, "adam_beta2", "Decay of the second moment.", below_one()),
            option(&S::adam_epsilon, "adam_epsilon", "Keeps the division finite.", over_zero()),
            option(&S::max_grad_norm, "max_grad_norm", "Gradients are scaled down to this norm; 0: never.", range(0)),
            option(&S::lr_scheduler_type, "lr_scheduler_type", "How the rate goes on after the warm-up.",
                   one_of({"linear", "cosine", "constant", "constant_with_warmup"})),
            option(&S::warmup_ratio, "warmup_ratio", "Share of the steps that warm up; not together with warmup_steps.", fraction()),
            option(&S::warmup_steps, "warmup_steps", "Steps that warm up; not together with warmup_ratio.", at_least(0)),
            row<S>("gradient_checkpointing", "bool or \"auto\"", "auto",
                   "Compute blocks again in the backward pass; auto: as few as memory demands.", checked(check_checkpointing),
                   [](S& s, const Value& v) { s.gradient_checkpointing = v.is_bool() ? (v.as_bool() ? "true" : "false") : v.as_string(); }),
            option(&S::seed, "seed", "Of data order, dropout and initialisation.", at_least(0)),
            option(&S::logging_steps, "logging_steps", "Steps between lines on the terminal; metrics.jsonl has every step.", at_least(1)),
            option(&S::eval_steps, "eval_steps", "Steps between evaluations; 0: at the end only.", at_least(0)),
            option(&S::eval_on_start, "eval_on_start", "Evaluate before the first step."),
            option(&S::save_steps, "save_steps", "Steps between checkpoints; 0: at the end only.", at_least(0)),
            option(&S::save_total_limit, "save_total_limit", "Checkpoints kept; 0: all.", at_least(0))}}};
}

Section generate_section() {
  using S = GenerateSection;
  return {"generate",
          "How text is continued; names and meanings are those of transformers. Flags of `host generate` win.",
          SectionShape::Table,
          "",
          {{option(&S::max_new_tokens, "max_new_tokens", "Tokens at most.", at_least(1)),
            option(&S::do_sample, "do_sample", "Draw at random; false: always the likeliest token."),
            option(&S::temperature, "temperature", "Divides the logits.", over_zero()),
            option(&S::top_k, "top_k", "Only the k likeliest tokens; 0: all.", at_least(0)),
            option(&S::top_p, "top_p", "Only the likeliest tokens that together have this probability.", checked(check_top_p)),
            option(&S::min_p, "min_p", "Only tokens at least this probable beside the likeliest.", fraction()),
            option(&S::repetition_penalty, "repetition_penalty", "Over 1 makes tokens that were there less likely.", over_zero()),
            option(&S::stop, "stop", "Texts that end a continuation and are cut off."),
            option(&S::seed, "seed", "Of the sampling.", at_least(0)),
            option(&S::prompts, "prompts", "Continued by `run`; where it trains, before and after.")}}};
}

Section export_section() {
  using S = ExportSection;
  return {
      "export",
      "What `host run` writes besides the adapter or model at output.dir.",
      SectionShape::Table,
      "",
      {{option(&S::format, "format", "hf, peft, or what a plugin declares; empty: peft for an adapter that is not merged, else hf."),
        option(&S::merge, "merge", "Add adapters into the weights."), option(&S::verify, "verify", "Load what was written and compare."),
        option(&S::to, "to", "The folder; a relative one lies in output.dir.")}}};
}

Section output_section() {
  return {"output",
          "Where results go.",
          SectionShape::Table,
          "",
          {{row<Recipe>("dir", "path", Value(), "Adapter or model, metrics.jsonl, loss.svg, run.json; checkpoints beside them.",
                        not_empty(), [](Recipe& r, const Value& v) { r.output_dir = v.as_string(); })}}};
}

Section plugins_section() {
  return {"plugins",
          "Which plugin files may serve this recipe.",
          SectionShape::Table,
          "",
          {{option(&Recipe::plugin_mode, "mode",
                   "pinned: only those that the user has pinned; bundled: only those that came with host; empty: as the user's "
                   "configuration says. The tighter of both counts.",
                   one_of({"user", "pinned", "bundled"}))}}};
}

}  // namespace

const std::vector<Section>& recipe_schema() {
  static const auto* const sections = new std::vector<Section>{
      model_section(), quantizer_section(), calibration_section(), patch_section(),  adapter_section(), text_section(),   media_section(),
      data_section(),  train_section(),     generate_section(),    export_section(), output_section(),  plugins_section()};
  return *sections;
}

const Section& schema_section(const std::string& name) {
  for (const auto& section : recipe_schema())
    if (section.name == name) return section;
  fail(ErrorCode::Internal, "the schema has no section '", name, "'");
}

const OptionTable& data_file_table() {
  static const auto* const table =
      new OptionTable{{option(&DataFile::path, "path", "The file.", not_empty()),
                       option(&DataFile::format, "format", "Of this file.", one_of(data_formats())),
                       option(&DataFile::weight, "weight", "How often it is drawn beside the others.", over_zero())}};
  return *table;
}

}  // namespace tenon::host
