#pragma once
// Seams: the typed operations of a model that a patch may replace (once) or wrap (any number of times, in recipe order).
// A patch looks at `layer` or `path` in the arguments to act on some layers only.
#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tenon/error.h"
#include "tenon/export.h"
#include "tenon/filler.h"

namespace tenon {

struct State;  // model.h

// q: [B, heads, T, head_dim]; k, v: [B, kv_heads, S, head_dim] with S = past + T; keys come first-to-last, query t stands at key past + t.
// -> [B, heads, T, head_dim] in q's dtype. A query attends to the keys of its own segment only; segment 0 is padding and
// attends to nothing (its output is finite and ignored).
struct AttentionArgs {
  at::Tensor q, k, v;
  double scale = 1;
  bool causal = true;
  int64_t past = 0;
  int64_t window = 0;       // a query sees the last `window` keys, itself included; 0: all
  double softcap = 0;       // 0: none
  at::Tensor segments;      // [B, T] int64; undefined: one segment, no padding
  at::Tensor key_segments;  // [B, S] int64; undefined like `segments`
  double dropout = 0;
  int64_t layer = 0;
};

// positions: [axes, B, T] int64 -> cos and sin, [B, T, rotary_dim] float32, attention scaling included.
struct RotaryArgs {
  at::Tensor positions;
  at::Tensor inv_freq;  // [rotary_dim / 2] float32
  double attention_scaling = 1;
  int64_t layer = -1;  // -1: shared by all layers
};
struct Rotary {
  at::Tensor cos, sin;
};

struct NormArgs {
  at::Tensor x;             // [..., width]
  at::Tensor weight, bias;  // bias undefined for RMS norms
  double eps = 1e-6;
  const std::string* path = nullptr;
};

struct ActivationArgs {
  at::Tensor gate, up;                // act(gate) * up; `up` undefined: act(gate)
  const std::string* name = nullptr;  // "silu", "gelu_pytorch_tanh", ...
};

struct MlpArgs {
  at::Tensor x;  // [B, T, hidden]
  int64_t layer = 0;
  State* state = nullptr;  // of the pass, where experts count their tokens
};

struct BlockArgs {
  State* state = nullptr;
  int stack = 0;
  int64_t layer = 0;
};

struct EmbeddingArgs {
  at::Tensor ids;  // [B, T] int64
  const Slot* slot = nullptr;
  at::ScalarType dtype = at::kFloat;
};

struct RouterArgs {
  at::Tensor logits;  // [tokens, experts]
  int64_t top_k = 0;
  bool normalize = false;  // weights of a token add up to 1
  int64_t layer = 0;
};
struct Routing {
  at::Tensor weights, experts;  // [tokens, top_k], float32 and int64
};

struct ProjectorArgs {
  at::Tensor features;  // [items, patches, width]
};

// Log-probabilities of given next tokens. hidden: [N, hidden], after the final norm; targets: [N] int64 -> [N] float32.
struct LossArgs {
  at::Tensor hidden, targets;
  const Slot* head = nullptr;
  double logit_softcap = 0;
  double logit_scale = 1;
};

namespace detail {
// The id of the plugin whose call runs on this thread; "" outside any.
TENON_API std::string running_plugin();
// Runs a call into plugin `owner`, at `where`: its errors, and a crash in it, are told as that plugin's.
TENON_API void run_in_name_of(const std::string& owner, const std::string& where, const std::function<void()>& call);
}  // namespace detail

// Each function runs in the name of the plugin that handed it over.
template <class Args, class Result>
class Seam {
 public:
  using Fn = std::function<Result(const Args&)>;
  using Wrapper = std::function<Result(const Args&, const Fn& next)>;

  explicit Seam(std::string name) : name_(std::move(name)) {}
  const std::string& name() const { return name_; }

  // The architecture's own way; set before patches run.
  void set_default(std::string who, Fn fn) {
    default_ = {std::move(who), detail::running_plugin(), std::move(fn)};
    compose();
  }
  void replace(std::string who, Fn fn) {
    if (replacement_.call)
      fail(ErrorCode::Recipe, "patches '", replacement_.who, "' and '", who, "' both replace the ", name_, " seam: keep one of them");
    replacement_ = {std::move(who), detail::running_plugin(), std::move(fn)};
    compose();
  }
  void wrap(std::string who, Wrapper wrapper) {
    wrappers_.push_back({std::move(who), detail::running_plugin(), std::move(wrapper)});
    compose();
  }

  Result operator()(const Args& args) const { return chain_(args); }
  bool is_default() const { return !replacement_.call && wrappers_.empty(); }
  bool is_set() const { return static_cast<bool>(chain_); }
  // Innermost first: {"sdpa", "sliding_window"}.
  std::vector<std::string> chain() const {
    std::vector<std::string> names{innermost().who};
    for (const auto& wrapper : wrappers_) names.push_back(wrapper.who);
    return names;
  }

 private:
  template <class Call>
  struct Owned {
    std::string who, owner;
    Call call;
  };

  const Owned<Fn>& innermost() const { return replacement_.call ? replacement_ : default_; }
  void compose() {
    chain_ = innermost().call;
    if (!chain_ || is_default()) return;  // the call into the architecture is its name already
    chain_ = [own = innermost(), place = place_of(innermost().who)](const Args& args) {
      return in_name_of(own.owner, place, [&] { return own.call(args); });
    };
    for (const auto& wrapper : wrappers_)
      chain_ = [own = wrapper, place = place_of(wrapper.who), next = chain_](const Args& args) {
        return in_name_of(own.owner, place, [&] { return own.call(args, next); });
      };
  }
  std::string place_of(const std::string& who) const { return name_ + " seam, " + who; }
  template <class Call>
  static Result in_name_of(const std::string& owner, const std::string& place, const Call& call) {
    if (owner.empty()) return call();
    Result result{};
    detail::run_in_name_of(owner, place, [&] { result = call(); });
    return result;
  }

  std::string name_;
  Owned<Fn> default_, replacement_;
  std::vector<Owned<Wrapper>> wrappers_;
  Fn chain_;
};

// The seams of one model. An architecture sets the defaults of those it goes through (Blueprint::seams names them).
struct Seams {
  Seam<EmbeddingArgs, at::Tensor> embedding{"embedding"};
  Seam<RotaryArgs, Rotary> rotary{"rotary"};
  Seam<AttentionArgs, at::Tensor> attention{"attention"};
  Seam<NormArgs, at::Tensor> norm{"norm"};
  Seam<ActivationArgs, at::Tensor> activation{"activation"};
  Seam<MlpArgs, at::Tensor> mlp{"mlp"};
  Seam<BlockArgs, bool> block{"block"};
  Seam<RouterArgs, Routing> router{"router"};
  Seam<ProjectorArgs, at::Tensor> projector{"projector"};
  Seam<LossArgs, at::Tensor> loss{"loss"};

  // visit(seam) for each, in the order above.
  template <class Visit>
  void for_each(Visit&& visit) const {
    visit(embedding), visit(rotary), visit(attention), visit(norm), visit(activation), visit(mlp), visit(block), visit(router),
        visit(projector), visit(loss);
  }
};

}  // namespace tenon
