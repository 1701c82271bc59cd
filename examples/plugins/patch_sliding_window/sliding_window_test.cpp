// What a query sees is probed key by key: changing one that it must not see leaves its output bit for bit.
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <cstdio>
#include <set>

#include "tenon/nn/attention.h"
#include "tenon/plugin.h"

extern "C" void tenon_plugin_register(tenon::Registrar* registrar);  // what the host calls

namespace {

int failures = 0;
void check(bool claim, const char* text) {
  std::printf("%s: %s\n", claim ? "ok" : "FAILED", text);
  failures += !claim;
}

constexpr int64_t kTokens = 12;

// The keys that change the output of `query`.
std::set<int64_t> seen(const tenon::Seams& seams, int64_t query, int64_t layer, const at::Tensor& segments) {
  tenon::AttentionArgs args{.q = at::randn({1, 4, kTokens, 8}), .k = at::randn({1, 2, kTokens, 8}), .v = at::randn({1, 2, kTokens, 8})};
  args.layer = layer, args.segments = segments, args.key_segments = segments;
  const at::Tensor before = seams.attention(args).select(2, query);
  std::set<int64_t> keys;
  for (int64_t key = 0; key < kTokens; ++key) {
    tenon::AttentionArgs changed = args;
    changed.v = args.v.clone();
    changed.v.select(2, key).add_(1);
    if (!at::equal(before, seams.attention(changed).select(2, query))) keys.insert(key);
  }
  return keys;
}

}  // namespace

int main() {
  tenon::Registrar registrar;
  tenon_plugin_register(&registrar);
  auto patched = [&](int64_t window, int64_t sinks, int64_t full_every) {
    tenon::Value options = tenon::Value::table();
    options.set("window", window), options.set("sinks", sinks), options.set("full_every", full_every);
    auto seams = std::make_unique<tenon::Seams>();
    seams->attention.set_default("sdpa", tenon::nn::Attention());
    registrar.patches.at(0).make(options)->on_seams(*seams);
    return seams;
  };
  using Keys = std::set<int64_t>;
  check(seen(*patched(3, 0, 0), 9, 0, {}) == Keys{7, 8, 9}, "the last three");
  check(seen(*patched(3, 2, 0), 9, 0, {}) == Keys{0, 1, 7, 8, 9}, "and the first two");
  check(seen(*patched(3, 2, 0), 3, 0, {}) == Keys{0, 1, 2, 3}, "which may lie inside the window");
  check(seen(*patched(100, 2, 0), 9, 0, {}).size() == 10, "a window over everything changes nothing");
  const auto every_second = patched(3, 0, 2);
  check(seen(*every_second, 9, 0, {}).size() == 3 && seen(*every_second, 9, 1, {}).size() == 10, "every second layer sees everything");
  const at::Tensor two_documents = at::tensor({1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2}, at::kLong).view({1, kTokens});
  check(seen(*patched(3, 1, 0), 10, 0, two_documents) == Keys{5, 8, 9, 10}, "a document's own first token is its sink");
  return failures;
}
