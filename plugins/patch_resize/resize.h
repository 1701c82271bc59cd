#pragma once
// [[patch]] type = "resize_embeddings": a vocabulary with more rows than the checkpoint has. It raises config.json's vocab_size, so that every
// architecture makes room, and tells the host which rows no file holds (tenon/new_rows.h).
#include <optional>

#include "tenon/options.h"
#include "tenon/patch.h"

namespace tenon::resize {

struct Options {
  std::optional<int64_t> new_num_tokens, pad_to_multiple_of;
  bool mean_resizing = true;
};
OptionTable option_table();

class ResizeEmbeddings final : public Patch {
 public:
  explicit ResizeEmbeddings(const Options& options) : options_(options) {}
  bool on_config(Value& config) override;
  bool on_blueprint(Blueprint& blueprint) override;

 private:
  Options options_;
  int64_t stored_ = 0, wanted_ = 0;  // rows in the checkpoint and in the model
};

}  // namespace tenon::resize
