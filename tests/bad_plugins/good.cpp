// What is right: the others differ from it in one thing.
#include "tenon/plugin.h"

namespace {
struct Options {
  int64_t strength = 1;
};
class Nothing : public tenon::Patch {
 public:
  explicit Nothing(const Options& options) : strength_(options.strength) {}
  bool on_config(tenon::Value& config) override {
    config.set("strength", strength_);
    return true;
  }

 private:
  int64_t strength_;
};
}  // namespace

TENON_PLUGIN(.id = "org.example.good", .version = "1.2.3", .license = "Apache-2.0", .provides = {"patch:good_patch;stage=config"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patch<Options, Nothing>(
      "good_patch", "Sets a key.",
      tenon::option_table<Options>({tenon::option(&Options::strength, "strength", "How much.", tenon::range(0, 9))}));
}
