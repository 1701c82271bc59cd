#pragma once
// Ids of tokens by their text, for processors that write more than one kind of token. Read from the checkpoint's tokenizer files.
#include <cstdint>
#include <map>
#include <string>

#include "tenon/value.h"

namespace tenon::vlm {

class TokenNames {
 public:
  // `folder`: of the checkpoint. Error(Data) when it has no tokenizer.json.
  explicit TokenNames(const std::string& folder);

  // What tokenizer_config.json calls `key` ("image_token"), as a text or {"content": text}, beside the others or among its extra special tokens.
  std::string text_of(const std::string& key, const std::string& fallback) const;
  // Error(Data) naming the token where there is none.
  int64_t id_of(const std::string& text) const;

 private:
  std::string folder_;
  Value config_;
  std::map<std::string, int64_t> ids_;  // of the added tokens
};

}  // namespace tenon::vlm
