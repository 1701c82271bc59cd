#include "settings.h"

#include <algorithm>

namespace tenon::gptq {

namespace {

const std::vector<Value> kBits{2, 3, 4, 8};
const std::vector<Value> kGroups{-1, 16, 32, 64, 128, 256, 512, 1024};

std::string choices(const std::vector<Value>& values) {
  std::string text;
  for (const Value& v : values) text += (text.empty() ? "" : ", ") + std::to_string(v.as_int());
  return text;
}

std::string check_dynamic(const Value& dynamic) {
  if (!dynamic.is_table()) return concat("expected a table of \"pattern\" = { option = value }, found ", dynamic.type_name());
  for (const auto& [pattern, values] : dynamic.as_table()) {
    const bool marked = pattern.rfind("-:", 0) == 0 || pattern.rfind("+:", 0) == 0;
    try {
      (void)std::regex(marked ? pattern.substr(2) : pattern);
    } catch (const std::regex_error&) {
      return concat("\"", pattern, "\" is no regular expression");
    }
    if (!values.is_table()) return concat("\"", pattern, "\": expected a table of options, found ", values.type_name());
    for (const auto& [key, value] : values.as_table()) {
      const auto one = [&](const std::vector<Value>& allowed) {
        return value.is_int() && std::find(allowed.begin(), allowed.end(), value) != allowed.end()
                   ? std::string()
                   : concat("\"", pattern, "\": ", key, " is one of ", choices(allowed));
      };
      std::string wrong;
      if (key == "bits")
        wrong = one(kBits);
      else if (key == "group_size")
        wrong = one(kGroups);
      else if (key == "sym" || key == "desc_act" || key == "act_group_aware" || key == "static_groups")
        wrong = value.is_bool() ? "" : concat("\"", pattern, "\": ", key, " is true or false, found ", value.type_name());
      else if (key == "damp_percent")
        wrong = value.is_number() && value.as_float() > 0 && value.as_float() < 1
                    ? ""
                    : concat("\"", pattern, "\": ", key, " lies between 0 and 1");
      else
        wrong = concat("\"", pattern, "\": '", key,
                       "' cannot differ by module; bits, group_size, sym, desc_act, act_group_aware, static_groups and damp_percent can");
      if (!wrong.empty()) return wrong;
    }
  }
  return "";
}

}  // namespace

OptionTable option_table() {
  return tenon::option_table<Options>({
      option(&Options::bits, "bits", "Of each weight.", one_of(kBits)),
      option(&Options::group_size, "group_size", "Columns that share a scale and a zero point; -1: all of a row.", one_of(kGroups)),
      option(&Options::desc_act, "desc_act", "Quantize columns in the order of falling activation, groups too (act-order).", {}),
      option(&Options::act_group_aware, "act_group_aware",
             "Quantize groups, and columns within them, in the order of falling activation; files stay in plain order. Not with desc_act "
             "or group_size = -1.",
             {}),
      option(&Options::sym, "sym", "Zero points in the middle of the codes; false: where each group's range puts them.", {}),
      option(&Options::static_groups, "static_groups", "Scales from the weight as it was, before any column was quantized.", {}),
      option(&Options::true_sequential, "true_sequential", "Observe each stage of a block behind the stages before it, already quantized.",
             {}),
      option(&Options::damp_percent, "damp_percent", "Share of the mean activation added to the Hessian's diagonal.",
             checked([](const Value& v) { return v.as_float() > 0 && v.as_float() < 1 ? "" : "expected more than 0 and less than 1"; })),
      option(&Options::damp_auto_increment, "damp_auto_increment", "Added to damp_percent until the Hessian can be inverted; 0: never.",
             range(0, 1)),
      option(&Options::format, "format", "Of files written: gptq stores zero points less one, gptq_v2 as they are.",
             one_of({"gptq", "gptq_v2"})),
      option(&Options::dynamic, "dynamic", "Other options by module: \"pattern\" = { bits = 8 }; \"-:pattern\" = {} leaves modules dense.",
             checked(check_dynamic)),
  });
}

Overrides::Overrides(const Options& options) : options_(options) {
  if (!options.dynamic.is_table()) return;
  for (const auto& [text, values] : options.dynamic.as_table()) {
    const bool excludes = text.rfind("-:", 0) == 0, marked = excludes || text.rfind("+:", 0) == 0;
    rules_.push_back({std::regex(marked ? text.substr(2) : text), excludes, values});
  }
}

const Overrides::Rule* Overrides::find(const std::string& name) const {
  for (const Rule& rule : rules_)
    if (std::regex_search(name, rule.pattern, std::regex_constants::match_continuous)) return &rule;
  return nullptr;
}

const Overrides::Rule* Overrides::find(const SlotSpec& slot) const {
  if (rules_.empty()) return nullptr;
  const std::scoped_lock lock(mutex_);
  const auto [known, is_new] = found_.try_emplace(slot.path, nullptr);
  if (is_new) known->second = search(slot);
  return known->second;
}

const Overrides::Rule* Overrides::search(const SlotSpec& slot) const {
  if (const Rule* rule = find(slot.path)) return rule;
  for (const auto& modules : file_modules(slot, 1))
    if (const Rule* rule = find(modules.front())) return rule;
  return nullptr;
}

bool Overrides::excludes(const std::string& name) const {
  const Rule* rule = find(name);
  return rule && rule->excludes;
}

bool Overrides::excludes(const SlotSpec& slot) const {
  const Rule* rule = find(slot);
  return rule && rule->excludes;
}

Settings Overrides::of(const SlotSpec& slot) const { return settings(slot, find(slot)); }

Settings Overrides::of(const SlotSpec& slot, const std::string& name) const {
  const Rule* rule = find(name);
  return settings(slot, rule ? rule : find(slot.path));
}

Settings Overrides::settings(const SlotSpec& slot, const Rule* rule) const {
  static const Value none = Value::table();
  const Value& v = rule && rule->values.is_table() ? rule->values : none;
  const Options& o = options_;
  const int64_t group_size = v.int_or("group_size", o.group_size);
  const bool desc_act = v.bool_or("desc_act", o.desc_act);
  return {.bits = static_cast<int>(v.int_or("bits", o.bits)),
          .group = group_size > 0 ? std::min(group_size, slot.in) : slot.in,
          .desc_act = desc_act,
          .act_group_aware = v.bool_or("act_group_aware", o.act_group_aware) && !desc_act && group_size > 0,
          .sym = v.bool_or("sym", o.sym),
          .static_groups = v.bool_or("static_groups", o.static_groups),
          .damp_percent = v.float_or("damp_percent", o.damp_percent),
          .damp_auto_increment = o.damp_auto_increment};
}

namespace {

bool cut_end(std::string& text, std::string_view end) {
  if (text.size() <= end.size() || !text.ends_with(end)) return false;
  text.resize(text.size() - end.size());
  return true;
}

}  // namespace

std::vector<std::vector<std::string>> file_modules(const SlotSpec& slot, size_t most) {
  const bool experts = slot.kind == SlotKind::Experts;
  std::vector<std::vector<std::string>> layouts;
  for (const Source& source : slot.sources) {
    if (experts ? !source.stack : source.pieces.size() != 1 || source.pieces[0].length >= 0) continue;
    std::vector<std::string> modules;
    for (size_t i = 0; i < std::min(most, source.pieces.size()); ++i) {
      std::string name = source.pieces[i].tensor;
      if (!cut_end(name, ".weight")) break;
      modules.push_back(std::move(name));
    }
    if (!modules.empty() && modules.size() == std::min(most, source.pieces.size())) layouts.push_back(std::move(modules));
  }
  // GPTQModel 7 takes apart what transformers 5 holds together, and calls it as it is called there.
  std::string prefix = slot.path;
  std::vector<const char*> ends;
  if (experts && cut_end(prefix, ".gate_up_proj"))
    ends = {".gate_proj", ".up_proj"};
  else if (experts && cut_end(prefix, ".down_proj"))
    ends = {".down_proj"};
  if (ends.empty()) return layouts;
  std::vector<std::string> modules;
  for (int64_t e = 0; e < slot.count; ++e)
    for (const char* end : ends)
      if (modules.size() < most) modules.push_back(concat(prefix, ".", e, end));
  layouts.push_back(std::move(modules));
  return layouts;
}

int64_t modules_per_expert(const SlotSpec& slot) {
  for (const Source& source : slot.sources)
    if (source.stack) return static_cast<int64_t>(source.pieces.size()) / std::max<int64_t>(slot.count, 1);
  return slot.path.ends_with(".gate_up_proj") ? 2 : 1;
}

}  // namespace tenon::gptq
