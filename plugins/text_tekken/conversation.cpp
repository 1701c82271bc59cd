#include "conversation.h"

#include "tenon/error.h"

namespace tenon::text_tekken {

namespace {

// From this version on a system prompt is a turn of its own, and sounds are heard; before, it begins the last user's turn.
constexpr int kSystemTurns = 7;
// Later ones write settings of the model into every conversation.
constexpr int kNewest = 13;
constexpr const char* kBetween = "\n\n";

std::string special(const char* token) { return std::string(kMark) + token; }

// One or several messages of one role. Sounds stand in the text as their tokens.
struct Turn {
  std::string role, text;
  bool ends_in_text = false;  // what text is added to must be set apart from
  int64_t message = -1;       // the last of them
};

void add_text(Turn& turn, const std::string& text) {
  if (text.empty()) return;
  if (text.find(kMark) != std::string::npos) fail(ErrorCode::Data, "the text holds U+FDD0, which marks special tokens here: leave it out");
  turn.text += (turn.ends_in_text ? kBetween : "") + text;
  turn.ends_in_text = true;
}

void add_part(Turn& turn, const Value& part, int version) {
  const std::string type = part.string_or("type", "");
  if (type == "text") return add_text(turn, part.string_or("text", ""));
  if (type != "audio")
    fail(ErrorCode::Data, "a part of type '", type, "' has no place in this tokenizer's conversations, expected text or audio");
  if (version < kSystemTurns || turn.role == "assistant")
    fail(ErrorCode::Data, "an audio part has no place ", turn.role == "assistant" ? "in what the assistant says" : "in conversations of v",
         turn.role == "assistant" ? "" : std::to_string(version));
  turn.text += special("[BEGIN_AUDIO]") + special("[AUDIO]");
  turn.ends_in_text = false;
}

std::vector<Turn> read_turns(const Value& messages, int version) {
  std::vector<Turn> turns;
  int64_t number = -1;
  for (const Value& message : messages.as_list()) {
    ++number;
    with_context(concat("message ", number + 1), [&] {
      const std::string role = message.string_or("role", "");
      if (role != "system" && role != "user" && role != "assistant")
        fail(ErrorCode::Data, "role '", role, "' is not served, expected system, user or assistant");
      if (const Value* calls = message.find_set("tool_calls"); calls && !(calls->is_list() && calls->as_list().empty()))
        fail(ErrorCode::Data, "tool calls are not served by this tokenizer's conversations");
      // Each system prompt stays by itself where it is a turn.
      if (turns.empty() || turns.back().role != role || (role == "system" && version >= kSystemTurns))
        turns.push_back({.role = role, .text = {}});
      Turn& turn = turns.back();
      turn.message = number;
      const Value* content = message.find_set("content");
      if (!content) return;
      if (content->is_string()) return add_text(turn, content->as_string());
      for (const Value& part : content->as_list()) add_part(turn, part, version);
    });
  }
  return turns;
}

// Before v7: one system prompt, which begins the last user's turn, and a user's turn in front of all.
void move_system(std::vector<Turn>& turns) {
  Turn system;
  std::erase_if(turns, [&](const Turn& turn) {
    if (turn.role != "system") return false;
    if (!turn.text.empty()) system.text += (system.text.empty() ? "" : kBetween) + turn.text;
    return true;
  });
  if (turns.empty() || turns.front().role != "user") turns.insert(turns.begin(), Turn{.role = "user", .text = {}});
  for (auto turn = turns.rbegin(); turn != turns.rend(); ++turn) {
    if (turn->role != "user") continue;
    if (!system.text.empty()) turn->text = system.text + kBetween + turn->text;
    return;
  }
}

}  // namespace

Rendered render_conversation(const Value& messages, const RenderOptions& options, int version) {
  if (version > kNewest)
    fail(ErrorCode::Data, "tekken.json is of version v", version, ", conversations are written for versions up to v", kNewest);
  if (const Value* tools = options.variables.find_set("tools"); tools && tools->is_list() && !tools->as_list().empty())
    fail(ErrorCode::Data, "tools are not served by this tokenizer's conversations");
  std::vector<Turn> turns = read_turns(messages, version);
  if (version < kSystemTurns) move_system(turns);
  Rendered rendered;
  rendered.text = special("<s>");
  for (const Turn& turn : turns) {
    if (turn.role == "system") rendered.text += special("[SYSTEM_PROMPT]") + turn.text + special("[/SYSTEM_PROMPT]");
    if (turn.role == "user") rendered.text += special("[INST]") + turn.text + special("[/INST]");
    if (turn.role != "assistant") continue;
    const size_t begin = rendered.text.size(), last = turn.text.find_last_not_of(' ');
    if (turn.text.empty()) fail(ErrorCode::Data, "message ", turn.message + 1, ": the assistant says nothing");
    rendered.text += turn.text.substr(0, last == std::string::npos ? 0 : last + 1) + special("</s>");
    if (options.want_spans) rendered.assistant.push_back({.begin = begin, .end = rendered.text.size(), .message = turn.message});
  }
  return rendered;  // the end of a user's turn is what an answer follows
}

}  // namespace tenon::text_tekken
