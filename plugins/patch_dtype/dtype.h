#pragma once
// [[patch]] type = "dtype": the host's dtype policy, changed for kinds of weights. The host writes its policy into the blueprint before patches see it, and
// keeps what they leave there.
#include <optional>
#include <string>

#include "tenon/options.h"
#include "tenon/patch.h"

namespace tenon::dtype {

// "float32", "model" (as the model's other weights), or absent: as the host decides.
struct Options {
  std::optional<std::string> norms, routers, embeddings, head;
};
OptionTable option_table();

class DtypePatch final : public Patch {
 public:
  explicit DtypePatch(const Options& options) : options_(options) {}
  bool on_blueprint(Blueprint& blueprint) override;

 private:
  Options options_;
};

}  // namespace tenon::dtype
