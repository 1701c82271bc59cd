#include "sample.h"

#include <cstdint>

#include "tenon/error.h"

namespace tenon::text_tekken {

namespace {

std::string base64(const std::string& bytes) {
  static constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) text += i + k > bytes.size() ? '=' : kLetters[bits >> (18 - 6 * k) & 63];
  }
  return text;
}

constexpr int kSpecial = 26, kBytes = 256;

}  // namespace

std::string sample_tekken() {
  const char* spellings[kSpecial] = {"<unk>",
                                     "<s>",
                                     "</s>",
                                     "[INST]",
                                     "[/INST]",
                                     "[X]",
                                     "[Y]",
                                     "[Z]",
                                     "[X1]",
                                     "[X2]",
                                     "[IMG]",
                                     "<pad>",
                                     "[X3]",
                                     "[X4]",
                                     "[X5]",
                                     "[X6]",
                                     "[X7]",
                                     "[SYSTEM_PROMPT]",
                                     "[/SYSTEM_PROMPT]",
                                     "[X8]",
                                     "[X9]",
                                     "[X10]",
                                     "[X11]",
                                     "[X12]",
                                     "[AUDIO]",
                                     "[BEGIN_AUDIO]"};
  std::string json =
      R"({"config": {"pattern": "\\w+|\\s+|[^\\w\\s]+", "default_vocab_size": 283, "default_num_special_tokens": 26, "version": "v11"}, "special_tokens": [)";
  for (int i = 0; i < kSpecial; ++i)
    json += concat(i ? ", " : "", "{\"rank\": ", i, ", \"token_str\": \"", spellings[i], "\", \"is_control\": true}");
  json += "], \"vocab\": [";
  for (int i = 0; i <= kBytes; ++i)
    json += concat(i ? ", " : "", "{\"rank\": ", i, ", \"token_bytes\": \"",
                   base64(i < kBytes ? std::string(1, static_cast<char>(i)) : "ab"), "\", \"token_str\": null}");
  return json + "]}";
}

}  // namespace tenon::text_tekken
