#include <cstdio>

#include "base/json.h"
#include "cli/session_options.h"
#include "data/conversation.h"
#include "generate/prompts.h"
#include "session/workspace.h"

namespace tenon::host {

int verb_tokenize(const Args& args) {
  const Workspace work(args.recipe, session_options(args));
  const auto codec = work.text();
  const auto text = args.get<std::string>("text"), messages = args.get<std::string>("messages");
  if (text.has_value() == messages.has_value()) fail(ErrorCode::Usage, "give either --text or --messages");
  Value out = Value::table();
  if (text) {
    const Encoded encoded = codec->encode(*text, true);
    out.set("ids", Value(encoded.ids)), out.set("text", *text), out.set("mask", Value());
  } else {
    const auto conversations = read_conversations(*messages);
    if (conversations.size() != 1) fail(ErrorCode::Usage, "--messages takes one conversation here, the file holds ", conversations.size());
    const Value& list = conversations[0].is_table() ? conversations[0].at("messages") : conversations[0];
    const Rendered rendered = codec->render(list, {.add_generation_prompt = args.on("add-generation-prompt"), .want_spans = true});
    const Encoded encoded = codec->encode(rendered.text, false);
    // A token is the assistant's when it begins inside a span, as in training.
    std::vector<int64_t> mask;
    for (const auto& [begin, end] : encoded.offsets) {
      bool inside = false;
      for (const auto& span : rendered.assistant) inside = inside || (begin >= span.begin && begin < span.end);
      mask.push_back(inside ? 1 : 0);
    }
    out.set("ids", Value(encoded.ids)), out.set("text", rendered.text), out.set("mask", Value(mask));
  }
  std::printf("%s\n", to_json(out, args.json ? -1 : 2).c_str());
  return 0;
}

}  // namespace tenon::host
