#pragma once
// A conversation that goes on: keeps the messages, asks the model for the assistant's next turn.
#include <functional>
#include <string>
#include <string_view>

#include "generate/generator.h"

namespace tenon::host {

class Chat {
 public:
  // `model` outlives the chat. Error(Data) without a tokenizer or a chat template.
  Chat(LoadedModel& model, GenerateSection settings);

  // Adds the user's turn, generates the assistant's and adds it. When the conversation no longer fits the context its oldest turns are forgotten,
  // the system message is not; `forgotten` counts them. If nothing was said (cancelled, error) the user's turn is taken back.
  Generated say(std::string_view text, const std::function<void(std::string_view piece)>& on_piece = nullptr,
                const std::function<bool()>& cancel = nullptr);

  // Starts over, with this system message unless it is empty.
  void reset(std::string_view system = "");
  const Value& messages() const { return messages_; }
  int64_t forgotten() const { return forgotten_; }

 private:
  std::vector<int64_t> prompt();

  LoadedModel& model_;
  GenerateSection settings_;
  Value messages_ = Value::list();
  int64_t forgotten_ = 0, turns_ = 0;
};

}  // namespace tenon::host
