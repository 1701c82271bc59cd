// A sliding window with attention sinks (Xiao et al. 2023, arXiv 2309.17453): every token attends to the last `window` tokens and, so that the model
// keeps its balance, to the first `sinks` of its document. Some layers may go on seeing everything.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>

#include "tenon/nn/attention.h"
#include "tenon/plugin.h"

namespace {

using namespace tenon;

struct Options {
  int64_t window = 1024;
  int64_t sinks = 0;
  int64_t full_every = 0;
};

// The narrowed mask, opened again for the first keys of each query's own document.
at::Tensor mask_with_sinks(const AttentionArgs& narrow, const AttentionArgs& wide, int64_t sinks) {
  const at::Tensor near = nn::attention_mask(narrow), seen = nn::attention_mask(wide);
  const int64_t keys = wide.k.size(2);
  const auto on_device = at::TensorOptions(wide.k.device()).dtype(at::kLong);
  at::Tensor place = at::arange(keys, on_device).view({1, 1, 1, keys});
  if (wide.key_segments.defined()) {
    // Where in its own document a key stands: its index less that of the first key of the same segment.
    const at::Tensor s = wide.key_segments.unsqueeze(2).eq(wide.key_segments.unsqueeze(1));  // [B, S, S]
    place = place.squeeze(0).squeeze(0) - s.to(at::kByte).argmax(2).unsqueeze(1).unsqueeze(1);
  }
  return near.logical_or(seen.logical_and(place < sinks));
}

class SlidingWindow final : public Patch {
 public:
  explicit SlidingWindow(const Options& options) : options_(options) {}

  bool on_seams(Seams& seams) override {
    seams.attention.wrap("sliding_window", [o = options_](const AttentionArgs& args, const auto& next) {
      if (o.full_every > 0 && (args.layer + 1) % o.full_every == 0) return next(args);
      AttentionArgs narrow = args;
      // A model that has a window of its own keeps the smaller one.
      narrow.window = args.window == 0 ? o.window : std::min(args.window, o.window);
      const bool reaches_all = args.k.size(2) <= narrow.window;
      if (o.sinks == 0 || reaches_all || !args.causal || args.softcap != 0) return next(narrow);
      return at::scaled_dot_product_attention(args.q, args.k, args.v, mask_with_sinks(narrow, args, o.sinks), args.dropout,
                                              /*is_causal=*/false, args.scale, /*enable_gqa=*/args.q.size(1) != args.k.size(1));
    });
    return true;
  }

 private:
  Options options_;
};

}  // namespace

TENON_PLUGIN(.id = "org.example.patch_sliding_window", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:sliding_window"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patch<Options, SlidingWindow>(
      "sliding_window", "Attention to the last tokens, and to the first few.",
      option_table<Options>({option(&Options::window, "window", "Tokens that a token sees, itself included.", range(1)),
                             option(&Options::sinks, "sinks", "First tokens of a document that all its tokens see as well.", range(0)),
                             option(&Options::full_every, "full_every", "Every so many layers one sees everything; 0: none.", range(0))}));
}
