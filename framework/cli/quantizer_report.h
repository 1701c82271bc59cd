#pragma once
// `host check-plugin FILE --report recipe.toml`: what a new quantization format must bring, next to another one and to full precision.
#include <string>
#include <vector>

#include "plugins/registry.h"
#include "recipe/recipe.h"

namespace tenon::host {

struct ReportRow {
  std::string name;  // a quantizer, or the dtype of full precision
  double perplexity = 0;
  double kl_divergence = 0;  // to full precision, mean over predicted tokens, in nats
  double top1 = 1;           // share of predicted tokens whose likeliest token is that of full precision
  double bits_per_weight = 0;
  int64_t weight_bytes = 0;
  double load_seconds = 0, tokens_per_second = 0;
};

struct QuantizerReport {
  int64_t tokens = 0;           // predicted
  std::vector<ReportRow> rows;  // full precision first
};

// The recipe's [quantizer] sections stay as they are but for their type: `candidate` with the recipe's options where the recipe names it, each other
// name with its defaults. Adapters and [train] are left out. Error(Recipe) without evaluation data.
QuantizerReport report_quantizer(const Recipe& recipe, Registry& registry, const std::vector<std::string>& candidates,
                                 const std::string& baseline);

std::string to_text(const QuantizerReport& report);
Value to_value(const QuantizerReport& report);

}  // namespace tenon::host
