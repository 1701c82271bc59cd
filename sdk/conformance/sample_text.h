#pragma once
// A small tokenizer in Hugging Face's file format: every byte is a token, three special ones, no merges, and a plain chat template.
#include "check.h"
#include "tenon/text.h"

namespace tenon::conformance {

TextFiles sample_text_files();
// The plugin's own example of the file that its codec reads (TENON_EXAMPLES "text:x"), without a template; else those.
TextFiles text_files_of(Context& c);
bool has_own_text_file(Context& c);

}  // namespace tenon::conformance
