#pragma once
// The C interface of the Rust crate in rust/: tekken.json through the crate `tiktoken-rs`.
//
// Functions that can fail return 0, or 1 and what is wrong in `error` (owned by the caller), and leave their other results untouched. What a function hands
// out goes back through the matching free function, which accepts zeroed values too. No function unwinds or aborts. A codec may be used by any number of
// threads at once.
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct text_tekken text_tekken;

typedef struct {
  char* data;
  size_t size;
} text_tekken_bytes;  // owned
typedef struct {
  uint32_t* data;
  size_t size;
} text_tekken_ids;  // owned

void text_tekken_bytes_free(text_tekken_bytes bytes);
void text_tekken_ids_free(text_tekken_ids ids);

// `json`: the file's text.
int text_tekken_new(const char* json, size_t size, text_tekken** codec, text_tekken_bytes* error);
void text_tekken_free(text_tekken* codec);

uint32_t text_tekken_vocab_size(const text_tekken* codec);     // special tokens included
uint32_t text_tekken_special_count(const text_tekken* codec);  // they have the first ids
uint32_t text_tekken_version(const text_tekken* codec);        // 7 of "v7"
// Of one token: its bytes, or a special token's spelling; empty for an id that is none.
text_tekken_bytes text_tekken_token(const text_tekken* codec, uint32_t id);
int64_t text_tekken_id(const text_tekken* codec, const char* bytes, size_t size);  // -1: no token

// UTF-8 text that holds no special tokens.
int text_tekken_encode(const text_tekken* codec, const char* text, size_t size, text_tekken_ids* ids, text_tekken_bytes* error);

// Puts bytes of tokens together to UTF-8: what cannot be any becomes U+FFFD, what may still become some is held back.
typedef struct text_tekken_utf8 text_tekken_utf8;
text_tekken_utf8* text_tekken_utf8_new(void);
void text_tekken_utf8_free(text_tekken_utf8* utf8);
text_tekken_bytes text_tekken_utf8_push(text_tekken_utf8* utf8, const char* bytes, size_t size);
text_tekken_bytes text_tekken_utf8_flush(text_tekken_utf8* utf8);

#ifdef __cplusplus
}
#endif
