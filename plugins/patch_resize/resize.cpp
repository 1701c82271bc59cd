#include "resize.h"

#include <algorithm>

#include "tenon/error.h"
#include "tenon/new_rows.h"

namespace tenon::resize {

OptionTable option_table() {
  return tenon::option_table<Options>({
      option(&Options::new_num_tokens, "new_num_tokens",
             "Rows for so many tokens; by default as many as the tokenizer has with text.add_tokens. It grows only.", range(1)),
      option(&Options::pad_to_multiple_of, "pad_to_multiple_of", "Round the number of rows up to a multiple of this.", range(1)),
      option(&Options::mean_resizing, "mean_resizing",
             "New rows around the mean of the others, with a billionth of their covariance; false: around zero, with config.json's "
             "initializer_range."),
  });
}

bool ResizeEmbeddings::on_config(Value& config) {
  // Of a model of several parts the text model's config says it, and often the outer one as well.
  Value* text = config.find("text_config");
  Value& owner = text && text->is_table() ? *text : config;
  const Value* size = owner.find_set("vocab_size");
  if (!size || !size->is_int())
    fail(ErrorCode::Data, "resize_embeddings: config.json", &owner == text ? "'s text_config" : "",
         " has no vocab_size to grow: write it there, as model.overrides can");
  stored_ = size->as_int();
  wanted_ = std::max(stored_, options_.new_num_tokens.value_or(0));
  if (const int64_t multiple = options_.pad_to_multiple_of.value_or(1); multiple > 1)
    wanted_ = (wanted_ + multiple - 1) / multiple * multiple;
  if (wanted_ == stored_) return false;
  owner.set("vocab_size", wanted_);
  if (&owner != &config && config.find_set("vocab_size")) config.set("vocab_size", wanted_);
  return true;
}

bool ResizeEmbeddings::on_blueprint(Blueprint& blueprint) {
  if (wanted_ == stored_) return false;
  bool changed = false;
  for (SlotSpec& slot : blueprint.slots) {
    // What is tied has no rows of its own.
    if ((slot.role != SlotRole::InputEmbedding && slot.role != SlotRole::OutputHead) || !slot.tied_to.empty()) continue;
    // transformers' resize_token_embeddings gives embedding and head one height, and its class then expects more rows than the file has.
    if (slot.out > wanted_)
      fail(ErrorCode::Data, "resize_embeddings: '", slot.path, "' has ", slot.out - wanted_, " rows more than vocab_size (", wanted_,
           "), as this architecture wants it: what transformers makes of such a model when it grows it cannot load again, so it is not "
           "served. "
           "Use tokens that the tokenizer has in reserve in place of text.add_tokens");
    if (slot.out != wanted_)
      fail(ErrorCode::Data, "resize_embeddings: '", slot.path, "' has ", slot.out, " rows where vocab_size is ", wanted_,
           ": this architecture counts its vocabulary otherwise");
    if (slot.bias) fail(ErrorCode::Data, "resize_embeddings: '", slot.path, "' has a bias, and growing one is not served");
    for (Source& source : slot.sources) {
      if (source.pieces.size() != 1 || source.stack || source.pieces.front().length >= 0)
        fail(ErrorCode::Data, "resize_embeddings: '", slot.path, "' is put together from several tensors, and growing one is not served");
      source.pieces.front().length = stored_;
      source.pieces.push_back(new_rows(wanted_ - stored_, options_.mean_resizing ? NewRows::Mean : NewRows::Normal));
    }
    changed = true;
  }
  return changed;
}

}  // namespace tenon::resize
