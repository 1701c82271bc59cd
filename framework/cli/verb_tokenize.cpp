#include <cstdio>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "cli/session_options.h"
#include "data/conversation.h"
#include "data/media.h"
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
    Value list = conversations[0];
    const std::vector<Medium> media = take_media(list, {});
    const Rendered rendered = codec->render(list, {.add_generation_prompt = args.on("add-generation-prompt"), .want_spans = true});
    const Encoded encoded = codec->encode(rendered.text, false);
    // A token is the assistant's when it begins inside a span, as in training.
    std::vector<int64_t> mask;
    for (const auto& [begin, end] : encoded.offsets) {
      bool inside = false;
      for (const auto& span : rendered.assistant) inside = inside || (begin >= span.begin && begin < span.end);
      mask.push_back(inside ? 1 : 0);
    }
    std::vector<int64_t> ids = encoded.ids;
    const auto media_out = args.get<std::string>("media-out");
    if (!media.empty() || media_out) {
      const MediaSupport support = load_processor(work.recipe, *work.registry, *Checkpoint::open(work.recipe.model.path));
      expand_media(ids, &mask, media, support);
      if (media_out) {
        if (media.empty()) fail(ErrorCode::Data, *messages, ": there are no media in the messages, so --media-out has nothing to write");
        std::vector<NamedTensor> tensors;
        for (const auto& [name, tensor] : support.processor->load(media)) tensors.emplace_back(name, tensor);
        write_safetensors(*media_out, tensors);
      }
    }
    for (int64_t& m : mask) m = m == 1;  // tokens of media are nobody's
    out.set("ids", Value(ids)), out.set("text", rendered.text), out.set("mask", Value(mask));
  }
  std::printf("%s\n", to_json(out, args.json ? -1 : 2).c_str());
  return 0;
}

}  // namespace tenon::host
