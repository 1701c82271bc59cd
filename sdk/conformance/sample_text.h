#pragma once
// A small tokenizer in Hugging Face's file format: every byte is a token, three special ones, no merges, and a plain chat template.
#include "tenon/text.h"

namespace tenon::conformance {

TextFiles sample_text_files();

}  // namespace tenon::conformance
