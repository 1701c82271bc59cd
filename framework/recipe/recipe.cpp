#include "recipe/recipe.h"

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "recipe/section_reader.h"
#include "recipe/settings.h"
#include "recipe/toml.h"

namespace tenon::host {

namespace {

class RecipeReader {
 public:
  RecipeReader(Recipe& recipe, Value document) : recipe_(recipe), document_(std::move(document)) {}

  void apply_settings() {
    for (size_t i = 0; i < recipe_.settings.size(); ++i) {
      const Value::Place place = place_of_setting(i);
      if (const std::string wrong = apply_setting(parse_setting(recipe_.settings[i]), place, document_); !wrong.empty())
        sections_.report(place, wrong);
    }
  }

  void read() {
    for (const auto& [key, value] : document_.as_table()) check_top_level(key, value);
    read_table("model", recipe_.model, true);
    read_repeated("quantizer", recipe_.quantizers);
    read_optional("calibration", recipe_.calibration);
    read_repeated("patch", recipe_.patches);
    read_repeated("adapter", recipe_.adapters);
    read_text();
    read_table("media", recipe_.media, true);
    read_optional("data", recipe_.data);
    read_train();
    read_table("generate", recipe_.generate, true);
    read_optional("export", recipe_.export_);
    if (table("output")) read_table("output", recipe_, false);
    if (table("plugins")) read_table("plugins", recipe_, false);
    check_model();
    check_quantizers();
    check_calibration();
    check_adapters();
    check_training();
    resolve_paths();
  }

  void throw_problems() const {
    if (problems_.empty()) return;
    std::vector<Problem> sorted = problems_;
    // The file's from top to bottom, then the command line's.
    std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
      if ((a.place.line == 0) != (b.place.line == 0)) return b.place.line == 0;
      return a.place.line != b.place.line ? a.place.line < b.place.line : a.place.column < b.place.column;
    });
    std::vector<std::string> lines;
    for (const auto& problem : sorted) lines.push_back(locate(recipe_, problem.place) + ": " + problem.text);
    throw Error(ErrorCode::Recipe, join(lines, "\n"));
  }

 private:
  static bool is_section(const std::string& name) {
    const auto& schema = recipe_schema();
    return std::any_of(schema.begin(), schema.end(), [&](const Section& s) { return s.name == name; });
  }

  void check_top_level(const std::string& key, const Value& value) {
    if (const std::string later = not_yet_served(key, ""); !later.empty()) return sections_.report(value.place, later);
    if (!is_section(key)) return sections_.report(value.place, SectionReader::unknown_key("", key));
    const bool repeats = schema_section(key).shape == SectionShape::Repeat;
    if (value.is_table()) return;
    if (!value.is_list())
      return sections_.report(value.place, concat("'", key, "' must be a table, written [", key, "], found ", value.type_name()));
    if (!repeats) return sections_.report(value.place, concat("[", key, "] stands once, it is no list"));
    for (const auto& item : value.as_list())
      if (!item.is_table())
        return sections_.report(item.place.line ? item.place : value.place,
                                concat("[[", key, "]] must be a table, found ", item.type_name()));
  }

  // The section when it is there and well-shaped; other shapes are reported already.
  const Value* table(const std::string& name) const {
    const Value* value = document_.find(name);
    return value && value->is_table() ? value : nullptr;
  }

  template <class S>
  void read_table(const std::string& name, S& out, bool always) {
    static const Value empty = Value::table();
    const Value* given = table(name);
    if (!given && !always) return;
    recipe_.resolved.set(name, sections_.read(schema_section(name), given ? *given : empty, &out, nullptr));
  }

  template <class S>
  void read_optional(const std::string& name, std::optional<S>& out) {
    if (!table(name)) return;
    out.emplace();
    read_table(name, *out, false);
  }

  static Value with_options(Value resolved, const Value& options) {
    for (const auto& [key, value] : options.as_table()) resolved.set(key, value);
    return resolved;
  }

  template <class S>
  void read_repeated(const std::string& name, std::vector<S>& out) {
    const Value* given = document_.find(name);
    if (!given) return;
    std::vector<const Value*> items;
    if (given->is_table()) items = {given};
    if (given->is_list())
      for (const auto& item : given->as_list())
        if (item.is_table()) items.push_back(&item);
    Value all = Value::list();
    for (const Value* item : items) {
      S section;
      section.options = Value::table();
      section.place = item->place.line || item->place.column ? item->place : given->place;
      Value resolved = sections_.read(schema_section(name), *item, &section, &section.options);
      if (!item->find("type"))
        sections_.report(section.place, concat("[", name, "] needs a 'type': `host plugins list --kind ", name, "` shows what there is"));
      else if (section.type.empty() && item->at("type").is_string())
        sections_.report(item->at("type").place, concat("'", name, ".type' is empty"));
      all.as_list().push_back(with_options(std::move(resolved), section.options));
      out.push_back(std::move(section));
    }
    recipe_.resolved.set(name, given->is_table() && !all.as_list().empty() ? all.as_list().front() : all);
  }

  void read_text() {
    static const Value empty = Value::table();
    const Value* given = table("text");
    recipe_.text.options = Value::table();
    if (given) recipe_.text.place = given->place;
    Value resolved = sections_.read(schema_section("text"), given ? *given : empty, &recipe_.text, &recipe_.text.options);
    recipe_.resolved.set("text", with_options(std::move(resolved), recipe_.text.options));
  }

  // Tables inside [train] are options of objectives.
  void read_train() {
    const Value* given = table("train");
    if (!given) return;
    TrainSection& train = recipe_.train.emplace();
    train.place = given->place;
    train.objective_options = Value::table();
    Value leftover = Value::table();
    Value resolved = sections_.read(schema_section("train"), *given, &train, &leftover);
    for (const auto& [key, value] : leftover.as_table()) {
      if (!value.is_table())
        sections_.report(value.place, SectionReader::unknown_key("train", key));
      else if (key == train.objective)
        train.objective_options = value;
      else if (train.objective.empty())
        sections_.report(value.place, concat("[train.", key, "] holds options of an objective: name it, objective = \"", key, "\""));
      else
        sections_.report(value.place, concat("[train.", key, "] holds options of objective ", key, ", but train.objective is \"",
                                             train.objective, "\""));
    }
    recipe_.resolved.set("train", with_options(std::move(resolved), leftover));
  }

  Value::Place place_of(const std::string& section, const std::string& key) const {
    const Value* given = document_.find(section);
    const Value* value = given ? given->find(key) : nullptr;
    return value ? value->place : given ? given->place : Value::Place{1, 1};
  }
  bool has(const std::string& section, const std::string& key) const {
    const Value* given = table(section);
    return given && given->find(key);
  }

  void check_model() {
    if (!has("model", "path")) sections_.report(place_of("model", ""), "[model] needs a 'path': the checkpoint's folder");
    const auto& model = recipe_.model;
    if (model.inference && model.reference)
      sections_.report(place_of("model", "reference"), "'model.inference' and 'model.reference' exclude each other");
    if (recipe_.train && model.inference)
      sections_.report(place_of("model", "inference"), "'model.inference' freezes everything: it cannot stand with [train]");
    if (recipe_.train && model.reference)
      sections_.report(place_of("model", "reference"), "'model.reference' loads a frozen reference model: it cannot stand with [train]");
  }

  void check_quantizers() {
    for (size_t i = 0; i + 1 < recipe_.quantizers.size(); ++i)
      if (recipe_.quantizers[i].modules.empty())
        sections_.report(recipe_.quantizers[i + 1].place,
                         concat("this [[quantizer]] can never match: number ", i, " before it has no 'modules' and takes every slot"));
  }

  void check_calibration() {
    if (recipe_.calibration && recipe_.calibration->files.empty() && !given_wrongly("calibration", "files"))
      sections_.report(place_of("calibration", "files"), "[calibration] needs 'files': at least one .jsonl, .json or .txt");
  }

  void check_adapters() {
    std::set<std::string> names;
    for (const auto& adapter : recipe_.adapters)
      if (!names.insert(adapter.name).second)
        sections_.report(adapter.place, concat("two adapters are named '", adapter.name, "': give each [[adapter]] a 'name' of its own"));
  }

  void check_training() {
    if (has("train", "warmup_ratio") && has("train", "warmup_steps"))
      sections_.report(place_of("train", "warmup_steps"), "'train.warmup_steps' and 'train.warmup_ratio' exclude each other");
    if (!recipe_.train) return;
    if (has("train", "freeze") && !recipe_.adapters.empty())
      sections_.report(place_of("train", "freeze"),
                       "'train.freeze' is for training a model without [adapter]: with one, all but the adapter is frozen already");
    if (!document_.find("data"))
      sections_.report(recipe_.train->place, "[train] needs [data] with 'train' files");
    else if (recipe_.data && recipe_.data->train.empty() && !given_wrongly("data", "train"))
      sections_.report(place_of("data", "train"), "[train] needs 'data.train': at least one file");
  }

  // A list that is there but was refused has been reported for what it is.
  bool given_wrongly(const std::string& section, const std::string& key) const {
    const Value* given = table(section);
    const Value* value = given ? given->find(key) : nullptr;
    return value && !(value->is_list() && value->as_list().empty());
  }

  void resolve_paths() {
    auto resolve = [&](std::filesystem::path& path) {
      if (!path.empty() && path.is_relative()) path = (recipe_.folder / path).lexically_normal();
    };
    resolve(recipe_.model.path);
    resolve(recipe_.text.chat_template);
    resolve(recipe_.media.folder);
    for (auto& adapter : recipe_.adapters) resolve(adapter.path);
    if (recipe_.calibration)
      for (auto& file : recipe_.calibration->files) resolve(file);
    if (recipe_.data)
      for (auto* files : {&recipe_.data->train, &recipe_.data->eval})
        for (auto& file : *files) resolve(file.path);
    if (recipe_.output_dir) resolve(*recipe_.output_dir);
  }

  Recipe& recipe_;
  Value document_;
  std::vector<Problem> problems_;
  SectionReader sections_{problems_};
};

}  // namespace

std::string locate(const Recipe& recipe, const Value::Place& place) {
  if (place.line > 0) return concat(recipe.file.string(), ":", place.line, ":", place.column);
  if (place.column > 0 && place.column <= recipe.settings.size()) return "--set " + setting_key(recipe.settings[place.column - 1]);
  return recipe.file.string();
}

Recipe parse_recipe(std::string_view toml, const std::filesystem::path& file, const std::vector<std::string>& settings) {
  Recipe recipe;
  recipe.file = file;
  recipe.folder = std::filesystem::absolute(file).parent_path().lexically_normal();
  recipe.settings = settings;
  recipe.resolved = Value::table();
  RecipeReader reader(recipe, parse_toml(toml, file.string()));
  reader.apply_settings();
  reader.read();
  reader.throw_problems();
  return recipe;
}

Recipe read_recipe(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  std::string text;
  try {
    text = read_file(file, 4 << 20);
  } catch (const Error& error) {
    throw Error(ErrorCode::Recipe, error.message());
  }
  return parse_recipe(text, file, settings);
}

}  // namespace tenon::host
