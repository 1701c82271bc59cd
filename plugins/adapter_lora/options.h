#pragma once
// The options of the recipe's [adapter] table, and their other form: PEFT's adapter_config.json.
#include <string>
#include <vector>

#include "tenon/options.h"
#include "tenon/value.h"

namespace tenon::lora {

// Names and defaults are PEFT's.
struct LoraOptions {
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  Value target_modules;                 // null: the default of the model_type; "all-linear", a list or a regular expression
  Value scope;                          // null, a name or a list: "language", "vision", "audio", "projector", "all"
  Value exclude_modules;                // null, a list or a regular expression
  Value rank_pattern = Value::table();  // regular expression -> r; the first match in file order counts
  Value alpha_pattern = Value::table();
  std::string bias = "none";
  bool use_rslora = false;
  bool use_dora = false;
  std::vector<std::string> modules_to_save;
  Value trainable_token_indices;   // null, a list of ids, or module name -> list
  Value new_tokens;                // null or a list of ids: what the host says of text.add_tokens
  Value stored_tensors;            // null or a list of names: what the host says of the file at [adapter] path
  Value init_lora_weights = true;  // true, "gaussian" or false
  Value layers_to_transform;       // null, an int or a list of ints
  Value layers_pattern;            // null, a string or a list
  bool fan_in_fan_out = false;
};

OptionTable lora_options();

// Error(Recipe) for what parses but is not served, with the reason.
void require_served(const LoraOptions& options);

// Reads adapter_config.json over the recipe's options: the file decides, except for dropout. Error(Data) for every key that changes what the
// adapter computes and is not known here; Error(Recipe) where the recipe asks for something else than the file holds.
LoraOptions read_peft_config(const Value& config, const LoraOptions& recipe);

// adapter_config.json as PEFT 0.21.2 writes it. `tokens`: trainable_token_indices, or null. `saved`: the file this adapter was continued from (null when fresh): its further keys
// and the order of its keys stay.
Value write_peft_config(const LoraOptions& options, const Value& targets, const Value& tokens, const std::string& base_model,
                        const Value& saved);

}  // namespace tenon::lora
