#pragma once
// Which slots get an update, and of which rank: PEFT's matching rules.
#include <set>
#include <string>
#include <vector>

#include "options.h"
#include "tenon/blueprint.h"
#include "token_rows.h"

namespace tenon::lora {

struct TargetSet {
  std::vector<std::string> paths;  // all that are wrapped, in blueprint order
  std::set<std::string> whole;     // those of them that are trained whole (modules_to_save)
  std::set<std::string> biased;    // those of them of which only the bias is trained
  std::set<std::string> stored;    // those of them whose base's rows a file brings, and nothing else
  TokenRowsOf tokens;              // those of them of which only some rows are trained
  Value written;                   // target_modules of adapter_config.json: as given, or what "all-linear", a default or a scope stands for
};

// saved: the options come from a file, whose list may name modules that this model does not have.
// Error(Recipe) for a name that matches nothing, for an invalid regular expression and for a match that is no linear layer or embedding.
// What modules_to_save names, or contains it, is never a target besides.
TargetSet find_targets(const LoraOptions& options, const Blueprint& blueprint, bool saved);

// Rank and alpha of one path after the patterns.
int64_t rank_of(const LoraOptions& options, const std::string& path);
double alpha_of(const LoraOptions& options, const std::string& path);
double scaling_of(const LoraOptions& options, const std::string& path);

}  // namespace tenon::lora
