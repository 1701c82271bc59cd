#pragma once
// [[patch]] type = "rope_scaling": another type of rotary frequencies than config.json's, for longer contexts. It edits the config before anything
// is made of it, so that it works on every architecture that reads its rotary parameters there, and that an exported config says what was trained.
#include <optional>
#include <string>

#include "tenon/options.h"
#include "tenon/patch.h"

namespace tenon::rope {

struct Options {
  std::string rope_type = "linear";
  std::optional<double> factor, rope_theta, attention_factor, beta_fast, beta_slow, mscale, mscale_all_dim, low_freq_factor,
      high_freq_factor;
  std::optional<int64_t> original_max_position_embeddings;
  std::optional<bool> truncate;
  Value short_factor, long_factor;
};
OptionTable option_table();

class RopeScaling final : public Patch {
 public:
  explicit RopeScaling(const Options& options) : options_(options) {}
  bool on_config(Value& config) override;

 private:
  Options options_;
};

}  // namespace tenon::rope
