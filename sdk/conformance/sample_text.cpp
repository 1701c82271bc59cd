#include "sample_text.h"

#include "tenon/json.h"

namespace tenon::conformance {

namespace {

// The character that byte-level tokenizers write for a byte: itself where it can be printed, else one from U+0100 on.
std::string byte_character(int byte) {
  static const auto* const points = [] {
    auto* table = new std::vector<int>(256);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool is_printed = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      (*table)[static_cast<size_t>(b)] = is_printed ? b : next++;
    }
    return table;
  }();
  const int point = (*points)[static_cast<size_t>(byte)];
  if (point < 0x80) return std::string(1, static_cast<char>(point));
  return {static_cast<char>(0xc0 | (point >> 6)), static_cast<char>(0x80 | (point & 0x3f))};
}

Value entry(std::initializer_list<Value::Entry> items) { return Value(Value::Table(items)); }

Value special(int64_t id, const char* content) {
  return entry({{"id", id},
                {"content", content},
                {"single_word", false},
                {"lstrip", false},
                {"rstrip", false},
                {"normalized", false},
                {"special", true}});
}

}  // namespace

TextFiles sample_text_files() {
  Value vocab = Value::table();
  for (int b = 0; b < 256; ++b) vocab.set(byte_character(b), b);
  vocab.set("<s>", 256), vocab.set("</s>", 257), vocab.set("<pad>", 258);
  const Value byte_level = entry({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}});
  const Value model = entry({{"type", "BPE"},
                             {"dropout", nullptr},
                             {"unk_token", nullptr},
                             {"continuing_subword_prefix", nullptr},
                             {"end_of_word_suffix", nullptr},
                             {"fuse_unk", false},
                             {"byte_fallback", false},
                             {"vocab", vocab},
                             {"merges", Value::list()}});
  const Value tokenizer = entry({{"version", "1.0"},
                                 {"truncation", nullptr},
                                 {"padding", nullptr},
                                 {"added_tokens", Value(Value::List{special(256, "<s>"), special(257, "</s>"), special(258, "<pad>")})},
                                 {"normalizer", nullptr},
                                 {"pre_tokenizer", byte_level},
                                 {"post_processor", nullptr},
                                 {"decoder", byte_level},
                                 {"model", model}});
  TextFiles files;
  files.tokenizer_json = to_json(tokenizer);
  files.tokenizer_config = entry({{"tokenizer_class", "PreTrainedTokenizerFast"},
                                  {"bos_token", "<s>"},
                                  {"eos_token", "</s>"},
                                  {"pad_token", "<pad>"},
                                  {"clean_up_tokenization_spaces", false}});
  files.chat_template =
      "{% for message in messages %}{{ '<s>' + message['role'] + ':' }}{% if message['role'] == 'assistant' %}{% generation %}"
      "{{ message['content'] + '</s>' }}{% endgeneration %}{% else %}{{ message['content'] + '</s>' }}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}";
  files.folder = "the kit's sample tokenizer";
  return files;
}

bool has_own_text_file(Context& c) { return !c.examples().empty(); }

TextFiles text_files_of(Context& c) {
  const std::vector<Value> own = c.examples();
  if (own.empty()) return sample_text_files();
  TextFiles files;
  files.tokenizer_json = to_json(own.front());
  files.folder = "the plugin's example";
  return files;
}

}  // namespace tenon::conformance
