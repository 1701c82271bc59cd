#pragma once
// What a recipe or a checkpoint says about GPTQ weights, and what that means for one module.
#include <memory>
#include <regex>
#include <string>
#include <vector>

#include "tenon/options.h"
#include "tenon/slot.h"

namespace tenon::gptq {

struct Options {
  int64_t bits = 4;
  int64_t group_size = 128;
  bool desc_act = false;
  bool act_group_aware = true;
  bool sym = true;
  bool static_groups = false;
  bool true_sequential = true;
  double damp_percent = 0.05;
  double damp_auto_increment = 0.01;
  std::string format = "gptq";
  Value dynamic = Value::table();
};
OptionTable option_table();

// Of one module.
struct Settings {
  int bits = 4;
  int64_t group = 128;  // columns; a whole row when the option is -1
  bool desc_act = false, act_group_aware = false, sym = true, static_groups = false;
  double damp_percent = 0.05, damp_auto_increment = 0.01;
  int64_t groups(int64_t columns) const { return (columns + group - 1) / group; }
  int64_t max_code() const { return (int64_t{1} << bits) - 1; }
  // Whether the columns of a group may lie anywhere in the row.
  bool is_reordered() const { return desc_act && !static_groups; }
};

// `dynamic`: regular expressions matched from the start of a module's path, the first that matches counts. "-:" in front leaves the module dense.
class Overrides {
 public:
  explicit Overrides(const Options& options);
  bool excludes(const std::string& path) const;
  Settings of(const SlotSpec& slot) const;

 private:
  struct Rule {
    std::string text;
    std::regex pattern;
    bool excludes = false;
    Value values;
  };
  const Rule* find(const std::string& path) const;
  Options options_;
  std::vector<Rule> rules_;
};

}  // namespace tenon::gptq
