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
    rules_.push_back({text, std::regex(marked ? text.substr(2) : text), excludes, values});
  }
}

const Overrides::Rule* Overrides::find(const std::string& path) const {
  for (const Rule& rule : rules_)
    if (std::regex_search(path, rule.pattern, std::regex_constants::match_continuous)) return &rule;
  return nullptr;
}

bool Overrides::excludes(const std::string& path) const {
  const Rule* rule = find(path);
  return rule && rule->excludes;
}

Settings Overrides::of(const SlotSpec& slot) const {
  Options o = options_;
  if (const Rule* rule = find(slot.path); rule && rule->values.is_table()) {
    const Value& v = rule->values;
    o.bits = v.int_or("bits", o.bits), o.group_size = v.int_or("group_size", o.group_size);
    o.sym = v.bool_or("sym", o.sym), o.desc_act = v.bool_or("desc_act", o.desc_act);
    o.act_group_aware = v.bool_or("act_group_aware", o.act_group_aware), o.static_groups = v.bool_or("static_groups", o.static_groups);
    o.damp_percent = v.float_or("damp_percent", o.damp_percent);
  }
  return {.bits = static_cast<int>(o.bits),
          .group = o.group_size > 0 ? std::min(o.group_size, slot.in) : slot.in,
          .desc_act = o.desc_act,
          .act_group_aware = o.act_group_aware && !o.desc_act && o.group_size > 0,
          .sym = o.sym,
          .static_groups = o.static_groups,
          .damp_percent = o.damp_percent,
          .damp_auto_increment = o.damp_auto_increment};
}

}  // namespace tenon::gptq
