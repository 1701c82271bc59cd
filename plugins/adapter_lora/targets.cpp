#include "targets.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <set>

#include "stored_rows.h"

namespace tenon::lora {

namespace {

std::regex compile(const std::string& pattern, const char* option) {
  try {
    return std::regex(pattern, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error& error) {
    fail(ErrorCode::Recipe, option, ": '", pattern, "' is not a regular expression that this program understands (", error.what(), ")");
  }
}

bool ends_with_name(const std::string& path, const std::string& name) {
  return path == name || (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
}

// A string is a regular expression on the whole path, a list names modules or their ends.
class ModuleRule {
 public:
  ModuleRule(const Value& value, const char* option) {
    if (value.is_string())
      pattern_ = compile(value.as_string(), option), is_pattern_ = true;
    else if (value.is_list())
      for (const auto& item : value.as_list()) names_.push_back(item.as_string());
  }
  bool matches(const std::string& path) const {
    if (is_pattern_) return std::regex_match(path, pattern_);
    return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) { return ends_with_name(path, name); });
  }

 private:
  bool is_pattern_ = false;
  std::regex pattern_;
  std::vector<std::string> names_;
};

// "mlp" names every module that is called so, and what is inside it.
bool lies_in_module(const std::string& path, const std::string& name) {
  if (name.empty()) return false;
  for (size_t at = path.find(name); at != std::string::npos; at = path.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at == 0 || path[at - 1] == '.') && (end == path.size() || path[end] == '.')) return true;
  }
  return false;
}

// layers_to_transform: the first number between dots that layers_pattern allows must be among the indices.
class LayerRule {
 public:
  explicit LayerRule(const LoraOptions& options) {
    const Value& layers = options.layers_to_transform;
    if (layers.is_int())
      indices_.insert(layers.as_int());
    else if (layers.is_list())
      for (const auto& layer : layers.as_list()) indices_.insert(layer.as_int());
    std::vector<std::string> names;
    if (options.layers_pattern.is_string() && !options.layers_pattern.as_string().empty())
      names = {options.layers_pattern.as_string()};
    else if (options.layers_pattern.is_list())
      for (const auto& name : options.layers_pattern.as_list()) names.push_back(name.as_string());
    if (names.empty()) patterns_.push_back(compile(R"(.*?\.[^.]*\.(\d+)\..*)", "layers_pattern"));
    for (const auto& name : names) patterns_.push_back(compile("(?:.*?\\.)?(?:" + name + ")\\.(\\d+)\\..*", "layers_pattern"));
  }
  bool allows(const std::string& path) const {
    if (indices_.empty()) return true;
    for (const auto& pattern : patterns_)
      if (std::smatch match; std::regex_match(path, match, pattern)) return indices_.count(std::stoll(match[1])) > 0;
    return false;
  }

 private:
  std::set<int64_t> indices_;
  std::vector<std::regex> patterns_;
};

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// Last components of the paths, the nearest to `name` first.
std::string known_names(const Blueprint& blueprint, const std::string& name) {
  std::set<std::string> distinct;
  for (const auto& slot : blueprint.slots)
    if (slot.kind != SlotKind::Experts) distinct.insert(last_name(slot.path));
  std::vector<std::string> names(distinct.begin(), distinct.end());
  const std::string wanted = last_name(name);
  std::stable_sort(names.begin(), names.end(),
                   [&](const auto& a, const auto& b) { return edit_distance(wanted, a) < edit_distance(wanted, b); });
  std::string text;
  for (size_t i = 0; i < names.size() && i < 10; ++i) text += (i ? ", " : "") + names[i];
  return text;
}

const Value& default_targets(const std::string& model_type) {
  // PEFT's table for the model types whose choice is not a matter of taste here; others must say.
  static const std::map<std::string, Value> table = [] {
    const Value query_value(std::vector<std::string>{"q_proj", "v_proj"});
    std::map<std::string, Value> t;
    for (const char* type : {"llama", "llama4", "mistral", "mixtral", "stablelm", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "opt",
                             "gptj", "gpt_neo", "bart"})
      t[type] = query_value;
    t["phi"] = Value(std::vector<std::string>{"q_proj", "v_proj", "fc1", "fc2"});
    t["gpt2"] = t["gpt_bigcode"] = Value(std::vector<std::string>{"c_attn"});
    t["bloom"] = t["gpt_neox"] = t["falcon"] = Value(std::vector<std::string>{"query_key_value"});
    t["nemotron_h"] = Value(std::vector<std::string>{"q_proj", "k_proj", "v_proj", "o_proj"});
    return t;
  }();
  auto it = table.find(model_type);
  if (it == table.end())
    fail(ErrorCode::Recipe, "target_modules has no default for model_type '", model_type, "': give \"all-linear\" or a list");
  return it->second;
}

// PEFT writes long lists as the shortest ends of paths that tell the targets from all other modules.
std::vector<std::string> shortest_names(const std::vector<std::string>& targets, const Blueprint& blueprint) {
  constexpr size_t kLongList = 20;
  if (targets.size() < kLongList) return targets;
  const std::set<std::string> chosen(targets.begin(), targets.end());
  std::set<std::string> other_ends;
  auto add_ends = [&](const std::string& path) {
    other_ends.insert(path);
    for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) other_ends.insert(path.substr(dot + 1));
  };
  auto add_with_parents = [&](const std::string& path, bool itself) {
    if (itself) add_ends(path);
    for (size_t dot = path.rfind('.'); dot != std::string::npos; dot = dot == 0 ? std::string::npos : path.rfind('.', dot - 1))
      add_ends(path.substr(0, dot));
  };
  for (const auto& slot : blueprint.slots) add_with_parents(slot.path, !chosen.count(slot.path));
  for (const auto& tensor : blueprint.tensors) add_with_parents(tensor.path, false);
  std::vector<std::string> names;
  for (const auto& path : targets) {
    if (std::any_of(names.begin(), names.end(), [&](const auto& name) { return ends_with_name(path, name); })) continue;
    size_t at = path.rfind('.');
    std::string end = path.substr(at + 1);
    while (at != std::string::npos && other_ends.count(end)) {
      at = at == 0 ? std::string::npos : path.rfind('.', at - 1);
      end = at == std::string::npos ? path : path.substr(at + 1);
    }
    names.push_back(end);
  }
  return names;
}

const Value* first_match(const Value& patterns, const std::string& path, const char* option) {
  if (!patterns.is_table()) return nullptr;
  for (const auto& [key, value] : patterns.as_table())
    if (std::regex_match(path, compile("(?:.*\\.)?(?:" + key + ")", option))) return &value;
  return nullptr;
}

}  // namespace

namespace {

bool is_whole(const LoraOptions& options, const std::string& path) {
  return std::any_of(options.modules_to_save.begin(), options.modules_to_save.end(),
                     [&](const std::string& name) { return lies_in_module(path, name); });
}

// Names in modules_to_save that are nothing here (unless a file brought them), or that hold something that is neither linear layer nor embedding.
void check_whole(const LoraOptions& options, const Blueprint& blueprint, bool saved) {
  for (const std::string& name : options.modules_to_save) {
    for (const auto& tensor : blueprint.tensors)
      if (lies_in_module(tensor.path, name))
        fail(ErrorCode::Recipe, "modules_to_save: '", name, "' holds '", tensor.path,
             "', and only linear layers and embeddings can be trained whole: name those in it");
    size_t count = 0;
    for (const auto& slot : blueprint.slots) {
      if (!lies_in_module(slot.path, name)) continue;
      ++count;
      if (slot.kind == SlotKind::Experts || slot.count != 1)
        fail(ErrorCode::Recipe, "modules_to_save: '", name, "' holds '", slot.path,
             "', whose weights are experts: they are not served yet");
    }
    if (count == 0 && !saved)
      fail(ErrorCode::Recipe, "modules_to_save: no module is named '", name, "'; there are ", known_names(blueprint, name));
  }
}

// Which parts of the model target_modules looks at.
class Scope {
 public:
  Scope(const Value& given, bool is_regex, const Blueprint& blueprint) {
    std::set<std::string> parts;
    for (const auto& slot : blueprint.slots) parts.insert(slot.part);
    if (given.is_null()) {
      parts_.insert("");
      is_all_ = is_regex;
      return;
    }
    const Value::List one{given};
    for (const Value& item : given.is_list() ? given.as_list() : one) {
      const std::string& name = item.as_string();
      is_all_ |= name == "all";
      parts_.insert(name == "language" ? "" : name);
      if (name == "all" || name == "language" || parts.count(name)) continue;
      std::string known;
      for (const auto& part : parts) known += (known.empty() ? "" : ", ") + (part.empty() ? "language" : part);
      fail(ErrorCode::Recipe, "scope: the model has no part '", name, "'; it has ", known);
    }
  }
  bool holds(const SlotSpec& slot) const { return is_all_ || parts_.count(slot.part) > 0; }
  std::string names() const {
    std::string text;
    for (const auto& part : parts_) text += (text.empty() ? "\"" : ", \"") + (part.empty() ? "language" : part) + "\"";
    return text;
  }

 private:
  bool is_all_ = false;
  std::set<std::string> parts_;
};

// What all paths begin with, whole components.
std::string common_prefix(const std::vector<std::string>& paths) {
  std::string prefix = paths.front().substr(0, paths.front().rfind('.') == std::string::npos ? 0 : paths.front().rfind('.'));
  for (const auto& path : paths)
    while (!prefix.empty() && !path.starts_with(prefix + "."))
      prefix.resize(prefix.rfind('.') == std::string::npos ? 0 : prefix.rfind('.'));
  return prefix;
}

std::string escaped(const std::string& name) {
  std::string text;
  for (const char c : name) text += (c == '.' ? "\\" : "") + std::string(1, c);
  return text;
}

// A regular expression that matches the targets and no other module, in the model's names and in the checkpoint's; their list where there is none.
Value scoped_targets(const std::vector<const SlotSpec*>& targets, const Blueprint& blueprint, bool as_list) {
  std::vector<std::string> paths;
  std::map<std::string, std::vector<const SlotSpec*>> by_part;
  for (const SlotSpec* slot : targets) paths.push_back(slot->path), by_part[slot->part].push_back(slot);
  if (as_list) return Value(paths);
  std::string pattern;
  for (const auto& [part, slots] : by_part) {
    std::vector<std::string> own, stored;
    std::set<std::string> names;
    for (const SlotSpec* slot : slots) {
      own.push_back(slot->path), stored.push_back(slot->file_path.empty() ? slot->path : slot->file_path);
      names.insert(last_name(slot->path));
    }
    std::set<std::string> prefixes{common_prefix(own), common_prefix(stored)};
    std::string heads, ends;
    for (const auto& prefix : prefixes) heads += (heads.empty() ? "" : "|") + escaped(prefix);
    for (const auto& name : names) ends += (ends.empty() ? "" : "|") + escaped(name);
    pattern += concat(pattern.empty() ? "" : "|", "(?:", heads, ")\\.(?:.*\\.)?(?:", ends, ")");
  }
  const std::regex compiled = compile(pattern, "target_modules");
  const std::set<std::string> wanted(paths.begin(), paths.end());
  for (const auto& slot : blueprint.slots)
    if (std::regex_match(slot.path, compiled) != (wanted.count(slot.path) > 0)) return Value(paths);
  return Value(pattern);
}

void check_all_biases(const Blueprint& blueprint) {
  for (const auto& tensor : blueprint.tensors)
    if (tensor.path.ends_with(".bias"))
      fail(ErrorCode::Recipe, "bias = \"all\": '", tensor.path, "' is not the bias of a linear layer: use \"lora_only\"");
}

}  // namespace

TargetSet find_targets(const LoraOptions& options, const Blueprint& blueprint, bool saved) {
  const bool is_default = options.target_modules.is_null();
  const Value& wanted = is_default ? default_targets(blueprint.model_type) : options.target_modules;
  const bool all_linear = wanted.is_string() && wanted.as_string() == "all-linear";
  const ModuleRule include(all_linear ? Value() : wanted, "target_modules");
  const ModuleRule exclude(options.exclude_modules, "exclude_modules");
  const LayerRule layers(options);
  const Scope scope(options.scope, wanted.is_string() && !all_linear, blueprint);
  check_whole(options, blueprint, saved);
  if (options.bias == "all") check_all_biases(blueprint);

  auto is_adapted = [&](const SlotSpec& slot) {
    const bool is_linear = slot.kind == SlotKind::Linear && slot.count == 1;
    const bool is_match = all_linear ? is_linear && slot.role != SlotRole::OutputHead : include.matches(slot.path);
    return is_match && scope.holds(slot) && !exclude.matches(slot.path) && !(wanted.is_list() && !layers.allows(slot.path));
  };
  TargetSet found;
  const std::set<std::string> stored = stored_slots(options, blueprint, [&](const SlotSpec& slot) { return is_whole(options, slot.path); });
  found.tokens =
      find_token_rows(options, blueprint, saved, [&](const SlotSpec& slot) { return is_whole(options, slot.path) || is_adapted(slot); });
  std::vector<const SlotSpec*> adapted;
  std::vector<std::string> linear;  // before exclude_modules, which the config names apart
  bool is_scoped = false;           // another part has what target_modules names
  for (const auto& slot : blueprint.slots) {
    const bool is_linear = slot.kind == SlotKind::Linear && slot.count == 1;
    if (is_whole(options, slot.path)) {
      found.whole.insert(slot.path);
      found.paths.push_back(slot.path);
      continue;
    }
    if (found.tokens.slots.count(slot.path)) {
      found.paths.push_back(slot.path);
      continue;
    }
    bool is_match = all_linear ? is_linear && slot.role != SlotRole::OutputHead : include.matches(slot.path);
    if (is_match && !scope.holds(slot)) is_match = false, is_scoped = true;
    if (is_match && all_linear) linear.push_back(slot.path);
    if (!is_match || exclude.matches(slot.path) || (wanted.is_list() && !layers.allows(slot.path))) {
      if (stored.count(slot.path)) {
        found.stored.insert(slot.path);
        found.paths.push_back(slot.path);
        continue;
      }
      if (options.bias != "all" || !is_linear || !slot.bias) continue;
      found.biased.insert(slot.path);
      found.paths.push_back(slot.path);
      continue;
    }
    if (slot.kind == SlotKind::Experts || slot.count != 1)
      fail(ErrorCode::Recipe, "target_modules names '", slot.path, "', whose weights are experts: they are not served yet");
    found.paths.push_back(slot.path);
    adapted.push_back(&slot);
  }
  if (wanted.is_list() && !saved)
    for (const auto& item : wanted.as_list()) {
      const std::string& name = item.as_string();
      if (std::none_of(blueprint.slots.begin(), blueprint.slots.end(), [&](const auto& slot) { return ends_with_name(slot.path, name); }))
        fail(ErrorCode::Recipe, "target_modules: no module is named '", name, "'; there are ", known_names(blueprint, name));
    }
  if (adapted.empty()) {
    std::string text = "nothing";
    if (wanted.is_string())
      text = "'" + wanted.as_string() + "'";
    else if (wanted.is_list()) {
      text.clear();
      for (const auto& item : wanted.as_list()) text += (text.empty() ? "'" : ", '") + item.as_string() + "'";
    }
    fail(ErrorCode::Recipe, "target_modules ", text, " leaves no module to adapt",
         options.exclude_modules.is_null() ? "" : " after exclude_modules",
         is_scoped ? " within scope " + scope.names() + ": set scope to where they are" : "", "; there are ",
         known_names(blueprint, wanted.is_string() ? wanted.as_string() : ""));
  }
  if (is_scoped)
    found.written = scoped_targets(adapted, blueprint, !options.layers_to_transform.is_null());
  else if (all_linear)
    found.written = Value(shortest_names(linear, blueprint));
  else
    found.written = wanted;
  return found;
}

int64_t rank_of(const LoraOptions& options, const std::string& path) {
  const Value* match = first_match(options.rank_pattern, path, "rank_pattern");
  return match ? match->as_int() : options.r;
}

double alpha_of(const LoraOptions& options, const std::string& path) {
  const Value* match = first_match(options.alpha_pattern, path, "alpha_pattern");
  return match ? match->as_float() : options.lora_alpha;
}

double scaling_of(const LoraOptions& options, const std::string& path) {
  const auto r = static_cast<double>(rank_of(options, path));
  return alpha_of(options, path) / (options.use_rslora ? std::sqrt(r) : r);
}

}  // namespace tenon::lora
