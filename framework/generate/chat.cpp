#include "generate/chat.h"

#include <algorithm>

#include "base/log.h"
#include "generate/prompts.h"

namespace tenon::host {

namespace {
Value message(std::string_view role, std::string_view content) {
  Value value = Value::table();
  value.set("role", role);
  value.set("content", content);
  return value;
}
}  // namespace

Chat::Chat(LoadedModel& model, GenerateSection settings) : model_(model), settings_(std::move(settings)) {
  if (!model_.text) fail(ErrorCode::Data, "the checkpoint has no tokenizer, so there is nothing to chat with");
  if (!model_.text->has_chat_template()) fail(ErrorCode::Data, "the checkpoint has no chat template: set text.chat_template to a file");
}

void Chat::reset(std::string_view system) {
  messages_ = Value::list();
  forgotten_ = 0;
  if (!system.empty()) messages_.as_list().push_back(message("system", system));
}

// Leaves room for an answer: max_new_tokens, but no more than a quarter of the context.
std::vector<int64_t> Chat::prompt() {
  const int64_t context = model_.model->blueprint().context_length;
  const int64_t room = std::min(settings_.max_new_tokens, context / 4);
  auto ids = encode_messages(*model_.text, messages_);
  auto& list = messages_.as_list();
  const bool has_system = list.front().string_or("role", "") == "system";
  const size_t oldest = has_system ? 1 : 0;
  const int64_t before = forgotten_;
  // A turn is a user's message and its answer, so what stays still begins with a user's message.
  while (context > 0 && static_cast<int64_t>(ids.size()) + room > context && list.size() - oldest > 2) {
    const auto first = list.begin() + static_cast<std::ptrdiff_t>(oldest);
    list.erase(first, first + 2);
    forgotten_ += 2;
    ids = encode_messages(*model_.text, messages_);
  }
  if (forgotten_ > before)
    log_warn(concat("the conversation no longer fits the context of ", context, " tokens: its oldest ", forgotten_ - before,
                    " messages are forgotten"));
  return ids;
}

Generated Chat::say(std::string_view text, const std::function<void(std::string_view)>& on_piece, const std::function<bool()>& cancel) {
  messages_.as_list().push_back(message("user", text));
  Generated answer;
  try {
    GenerateRequest request;
    request.prompts = {prompt()};
    request.settings = settings_;
    // Each turn draws from a stream of its own.
    request.settings.seed += turns_++;
    if (on_piece) request.on_piece = [&](size_t, std::string_view piece) { on_piece(piece); };
    request.cancel = cancel;
    answer = std::move(generate(model_, request).outputs.front());
  } catch (...) {
    messages_.as_list().pop_back();
    throw;
  }
  if (answer.ids.empty())
    messages_.as_list().pop_back();
  else
    messages_.as_list().push_back(message("assistant", answer.text));
  return answer;
}

}  // namespace tenon::host
