#pragma once
// The C interface of the Rust crate in rust/: tokenizer.json and chat templates through the crates `tokenizers` and `minijinja`.
//
// Texts are UTF-8 with a length and need no terminating NUL; text that is not UTF-8 is an error. Functions that can fail return
// TEXT_HF_OK or an error class, and then, where `error` is not null, fill it with what is wrong; their other results are untouched.
// What a function hands out (text_hf_string, text_hf_tokens, text_hf_ids, text_hf_rendered) belongs to the caller and goes back through the
// matching free function, which accepts zeroed values too. No function unwinds, prints or aborts.
//
// A codec may be used by any number of threads at once, except while text_hf_codec_add_tokens runs. A decoding belongs to one thread at a
// time and may outlive its codec.
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct text_hf_codec text_hf_codec;
typedef struct text_hf_decoding text_hf_decoding;

enum {
  TEXT_HF_OK = 0,
  TEXT_HF_DATA = 1,      // files, texts or ids that cannot be used
  TEXT_HF_TEMPLATE = 2,  // chat template: syntax, a raised exception, a limit, spans that cannot be placed
  TEXT_HF_INTERNAL = 3,  // a bug: a caught panic
};

typedef struct {
  const char* data;
  size_t size;
} text_hf_text;  // borrowed for the call
typedef struct {
  char* data;
  size_t size;
} text_hf_string;  // owned
typedef struct {
  int64_t id;
  size_t begin, end;
} text_hf_token;  // bytes of the text it came from; 0, 0 for added special tokens
typedef struct {
  text_hf_token* data;
  size_t size;
} text_hf_tokens;
typedef struct {
  int64_t* data;
  size_t size;
} text_hf_ids;
typedef struct {
  size_t begin, end;
  int64_t message;
} text_hf_span;  // bytes of the rendered text; message -1: not known
typedef struct {
  text_hf_string text;
  text_hf_span* spans;
  size_t span_count;
} text_hf_rendered;

// The contents of a checkpoint's files. All but tokenizer_json may be empty.
typedef struct {
  text_hf_text tokenizer_json;
  text_hf_text tokenizer_config;    // JSON
  text_hf_text special_tokens_map;  // JSON; counts only where tokenizer_config has no added_tokens_decoder, and overrides it then
  text_hf_text chat_template;
  text_hf_text model_type;  // of config.json: for some, transformers does not believe tokenizer_config's tokenizer_class
} text_hf_files;

void text_hf_string_free(text_hf_string string);
void text_hf_tokens_free(text_hf_tokens tokens);
void text_hf_ids_free(text_hf_ids ids);
void text_hf_rendered_free(text_hf_rendered rendered);

// Behaves as transformers' AutoTokenizer on the same files.
int text_hf_codec_new(const text_hf_files* files, text_hf_codec** codec, text_hf_string* error);
void text_hf_codec_free(text_hf_codec* codec);

// Adds the tokens that the vocabulary does not have, as transformers' add_tokens; `added` (may be null) is how many those were.
// Before the codec is shared.
int text_hf_codec_add_tokens(text_hf_codec* codec, const text_hf_text* tokens, size_t count, int special, size_t* added,
                             text_hf_string* error);

// Special tokens inside the text are found either way; `add_special_tokens` runs the post-processor too (BOS ...).
int text_hf_encode(const text_hf_codec* codec, text_hf_text text, int add_special_tokens, text_hf_tokens* tokens, text_hf_string* error);
// Ids outside the vocabulary are left out; negative ones are an error.
int text_hf_decode(const text_hf_codec* codec, const int64_t* ids, size_t count, int skip_special_tokens, text_hf_string* text,
                   text_hf_string* error);

// Decodes a stream: the pieces of all pushes and the finish, put together, equal the decoding of all ids. A piece is empty while a character
// is incomplete. After its finish a decoding is freed, not pushed to.
text_hf_decoding* text_hf_decoding_new(const text_hf_codec* codec, int skip_special_tokens);
void text_hf_decoding_free(text_hf_decoding* decoding);
int text_hf_decoding_push(text_hf_decoding* decoding, int64_t id, text_hf_string* piece, text_hf_string* error);
int text_hf_decoding_finish(text_hf_decoding* decoding, text_hf_string* piece, text_hf_string* error);

size_t text_hf_vocab_size(const text_hf_codec* codec);                      // added tokens included
int64_t text_hf_token_id(const text_hf_codec* codec, text_hf_text token);   // -1: not in the vocabulary
text_hf_string text_hf_token_text(const text_hf_codec* codec, int64_t id);  // as spelled in the vocabulary; null data: unknown id
int64_t text_hf_special_id(const text_hf_codec* codec,
                           text_hf_text name);  // "bos_token", "eos_token", "pad_token", "unk_token" ...; -1: none
int text_hf_is_special(const text_hf_codec* codec, int64_t id);
text_hf_ids text_hf_special_ids(const text_hf_codec* codec);  // of all special tokens, ascending

int text_hf_has_chat_template(const text_hf_codec* codec);
int text_hf_has_generation_blocks(const text_hf_codec* codec);
// A rendered conversation holds its special tokens: encode it with add_special_tokens 0. This says whether a text begins with BOS already.
int text_hf_starts_with_bos(const text_hf_codec* codec, text_hf_text text);

enum {
  TEXT_HF_GENERATION_PROMPT = 1,  // end with the header of an assistant's turn
  TEXT_HF_CONTINUE_FINAL = 2,     // end inside the last message; neither of the other two with it
  TEXT_HF_SPANS = 4,              // fill spans: what the assistant says, end-of-turn tokens included
};
// `messages`: a JSON list of tables {role, content, ...}. `variables`: a JSON table of further variables (tools, documents, ...), or empty.
// The variable strftime_now, a date like "2024-07-26", replaces the present time in templates that print it.
// How spans are found when the template has no {% generation %} blocks: see rust/src/spans.rs. Limits: 4 million instructions, 256 MiB and 32
// times the input, 60 s.
int text_hf_render(const text_hf_codec* codec, text_hf_text messages, text_hf_text variables, int flags, text_hf_rendered* rendered,
                   text_hf_string* error);

#ifdef __cplusplus
}
#endif
