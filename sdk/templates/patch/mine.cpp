// A sliding window: every token attends to the last `window` tokens only, itself included.
#include "tenon/plugin.h"

namespace {

using namespace tenon;

struct MineOptions {
  int64_t window = 256;
  int64_t first_layer = 0;
};

class Mine final : public Patch {
 public:
  explicit Mine(const MineOptions& options) : options_(options) {}

  // Wrapped, not replaced: other patches of the attention may stand before and behind this one.
  bool on_seams(Seams& seams) override {
    seams.attention.wrap("mine", [options = options_](const AttentionArgs& args, const auto& next) {
      if (args.layer < options.first_layer) return next(args);
      AttentionArgs narrow = args;
      // A model that has a window of its own keeps the smaller one.
      narrow.window = args.window == 0 ? options.window : std::min(args.window, options.window);
      return next(narrow);
    });
    return true;
  }

 private:
  MineOptions options_;
};

}  // namespace

TENON_PLUGIN(.id = "org.example.mine", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:mine"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patch<MineOptions, Mine>(
      "mine", "Attention to the last tokens only.",
      option_table<MineOptions>({option(&MineOptions::window, "window", "Tokens that a token sees, itself included.", range(1)),
                                 option(&MineOptions::first_layer, "first_layer", "Layers before it see everything.", range(0))}));
}
