#pragma once
// Conversations as mistral-common's instruct tokenizers write them.
#include "tenon/text.h"

namespace tenon::text_tekken {

// Stands before every special token of a rendered conversation: a code point that Unicode reserves for such use (U+FDD0), so that a special token spelled in a
// message is text, as it is for mistral-common.
inline constexpr std::string_view kMark = "\xEF\xB7\x90";

// `version`: of tekken.json, 7 of "v7". Messages of one role that follow each other become one. Error(Data) for what is not served: tools, pictures, other roles,
// versions above 13.
Rendered render_conversation(const Value& messages, const RenderOptions& options, int version);

}  // namespace tenon::text_tekken
