#pragma once
// What a recipe or a checkpoint says about GPTQ weights, and what that means for one module.
#include <cstdint>
#include <memory>
#include <mutex>
#include <regex>
#include <string>
#include <unordered_map>
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
  bool reads_as(const Settings& other) const { return bits == other.bits && group == other.group && sym == other.sym; }
  // Whether the columns of a group may lie anywhere in the row.
  bool is_reordered() const { return desc_act && !static_groups; }
};

// `dynamic`: regular expressions matched from the start of a module's path, else of its names in files; the first that matches counts. "-:" in front
// leaves the module dense.
class Overrides {
 public:
  explicit Overrides(const Options& options);
  bool excludes(const SlotSpec& slot) const;
  bool excludes(const std::string& name) const;
  Settings of(const SlotSpec& slot) const;
  // Of one of the modules that make up the slot, by its name in the file.
  Settings of(const SlotSpec& slot, const std::string& name) const;

 private:
  struct Rule {
    std::regex pattern;
    bool excludes = false;
    Value values;
  };
  const Rule* find(const std::string& name) const;
  const Rule* find(const SlotSpec& slot) const;
  const Rule* search(const SlotSpec& slot) const;
  Settings settings(const SlotSpec& slot, const Rule* rule) const;
  Options options_;
  std::vector<Rule> rules_;
  // By path: every product asks, and regular expressions are slow. A path means one slot for as long as a quantizer lives.
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, const Rule*> found_;
};

// The names under which files may hold a slot's packed weights, one list for each layout in order of preference: one module, or of experts all of them,
// in the order of their rows; `most`: no more of each list.
std::vector<std::vector<std::string>> file_modules(const SlotSpec& slot, size_t most = SIZE_MAX);
// How many of them make up one expert: gate and up, or down alone.
int64_t modules_per_expert(const SlotSpec& slot);

}  // namespace tenon::gptq
