#pragma once
// The decoding loop: prompts of any lengths as one left-padded batch, a preallocated cache, one forward pass a token, text streamed as it appears.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/loaded_model.h"
#include "recipe/recipe.h"

namespace tenon::host {

struct GenerateRequest {
  std::vector<std::vector<int64_t>> prompts;    // ids, special tokens included; an empty one becomes the tokenizer's BOS
  std::vector<std::vector<Medium>> media = {};  // of each prompt; empty: none has any
  GenerateSection settings;
  int64_t min_new_tokens = 0;  // until then no end token is chosen, as in transformers
  size_t batch_size = 8;       // prompts that run together; results do not depend on it but for rounding
  // Called on the calling thread. Pieces of one prompt in order, those of a batch in turns; put together they are the text.
  std::function<void(size_t prompt, std::string_view piece)> on_piece;
  // Asked before every step; true ends everything with what is there, finish_reason "cancelled". Null: Ctrl-C throws Error(Interrupted).
  std::function<bool()> cancel;
};

struct Generated {
  std::vector<int64_t> ids;   // new tokens, the end token included
  std::string text;           // special tokens and the stop string left out; empty without a tokenizer
  std::string finish_reason;  // "stop", "length" or "cancelled"
};

struct Generation {
  std::vector<Generated> outputs;  // one per prompt, in order
  // The whole batches' work: prompts until their first token, then steps of one token a row.
  double prefill_seconds = 0, decode_seconds = 0;
  int64_t prompt_tokens = 0, decode_steps = 0, decoded_tokens = 0;
};

// Switches dropout off. Error(Data) for a prompt that fills the context, or is empty where there is no BOS.
Generation generate(LoadedModel& model, const GenerateRequest& request);

}  // namespace tenon::host
