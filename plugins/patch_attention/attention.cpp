#include "attention.h"

#include <algorithm>

#include "tenon/nn/attention.h"

namespace tenon::attention {

OptionTable option_table() {
  return tenon::option_table<Options>({
      option(&Options::implementation, "implementation",
             "\"eager\": scores in memory; \"sdpa\": LibTorch's scaled_dot_product_attention; \"flash\": its flash attention, document by "
             "document. By default the model's own.",
             one_of({"eager", "sdpa", "flash"})),
      option(&Options::sliding_window, "sliding_window",
             "A token sees this many last tokens, itself included; a model that has smaller windows keeps them.", range(1)),
  });
}

bool AttentionPatch::on_seams(Seams& seams) {
  if (!seams.attention.is_set()) return false;
  bool changed = false;
  if (const auto& name = options_.implementation; name && *name != seams.attention.chain().front()) {
    if (*name == "eager")
      seams.attention.replace(*name, eager);
    else if (*name == "flash")
      seams.attention.replace(*name, flash);
    else
      seams.attention.replace(*name, nn::Attention());
    changed = true;
  }
  if (options_.sliding_window) {
    seams.attention.wrap("sliding_window", [window = *options_.sliding_window](const AttentionArgs& args, const auto& next) {
      // What is no line of text, such as the pictures that some layers look at, has no last tokens.
      if (!args.causal || (args.window > 0 && args.window <= window)) return next(args);
      AttentionArgs narrow = args;
      narrow.window = window;
      return next(narrow);
    });
    changed = true;
  }
  return changed;
}

}  // namespace tenon::attention
