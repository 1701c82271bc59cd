#include <cstdio>
#include <iostream>

#include "base/interrupt.h"
#include "base/json.h"
#include "cli/session_options.h"
#include "generate/chat.h"
#include "generate/prompts.h"
#include "session/workspace.h"

namespace tenon::host {

namespace {

// Command-line flags as settings of the recipe, so that they are checked like it.
std::vector<std::string> as_settings(const Args& args) {
  std::vector<std::string> settings = args.settings;
  auto take = [&]<class T>(const char* flag, const char* key, T) {
    if (const auto value = args.get<T>(flag)) settings.push_back(concat("generate.", key, "=", to_json(Value(*value))));
  };
  take("max-new-tokens", "max_new_tokens", int64_t{});
  take("temperature", "temperature", double{});
  take("top-k", "top_k", int64_t{});
  take("top-p", "top_p", double{});
  take("min-p", "min_p", double{});
  take("repetition-penalty", "repetition_penalty", double{});
  take("seed", "seed", int64_t{});
  if (const auto stops = args.get<std::vector<std::string>>("stop")) settings.push_back("generate.stop=" + to_json(Value(*stops)));
  const auto temperature = args.get<double>("temperature");
  if (args.on("do-sample") || (temperature && *temperature > 0)) settings.push_back("generate.do_sample=true");
  return settings;
}

int chat(const Args& args, const SessionOptions& options) {
  Workspace work(args.recipe, options);
  Chat conversation(work.load(false, true), work.recipe.generate);
  std::fprintf(stderr, "Type a message; an empty line ends.\n");
  for (std::string line;;) {
    std::fprintf(stderr, "> ");
    if (!std::getline(std::cin, line) || line.empty()) return 0;
    conversation.say(line, [](std::string_view piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    });
    std::printf("\n");
  }
}

}  // namespace

int verb_generate(const Args& args) {
  SessionOptions options = session_options(args);
  options.settings = as_settings(args);
  if (args.on("chat")) return chat(args, options);
  std::vector<Value> prompts;
  if (const auto texts = args.get<std::vector<std::string>>("prompt")) prompts.assign(texts->begin(), texts->end());
  if (const auto file = args.get<std::string>("messages"))
    for (auto& conversation : read_conversations(*file)) prompts.push_back(std::move(conversation));
  if (prompts.empty()) fail(ErrorCode::Usage, "nothing to continue: give --prompt, --messages or --chat");

  Session session(args.recipe, options);
  // One prompt streams as it is made; several would run into each other and are printed one by one.
  const bool streams = !args.json && prompts.size() == 1;
  const auto outputs = session.generate(prompts, streams ? [](const TextPiece& piece) {
    std::fwrite(piece.text.data(), 1, piece.text.size(), stdout);
    std::fflush(stdout);
  } : std::function<void(const TextPiece&)>());
  if (streams) return std::printf("\n"), 0;
  Value list = Value::list();
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!args.json) std::printf("%s\n", outputs[i].text.c_str());
    Value row = Value::table();
    row.set("prompt", prompts[i]), row.set("ids", Value(outputs[i].ids)), row.set("text", outputs[i].text),
        row.set("finish_reason", outputs[i].finish_reason);
    list.as_list().push_back(row);
  }
  if (args.json) std::printf("%s\n", to_json(list, 2).c_str());
  return 0;
}

}  // namespace tenon::host
