#pragma once
// The pipeline for programs that embed it: a recipe, opened, planned, loaded, and put to its uses. The command line is the first client.
// One thread at a time per session, but for cancel(). Errors are thrown as tenon::Error.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tenon/export.h"
#include "tenon/value.h"

namespace tenon {

struct SessionOptions {
  std::vector<std::string> settings;                // "train.learning_rate=1e-4", as behind --set
  std::vector<std::filesystem::path> plugin_dirs;   // --plugin-dir
  std::vector<std::filesystem::path> plugin_files;  // --plugin
  bool bundled_plugins_only = false;                // --no-plugins
  std::string plugin_mode;                          // --plugin-mode: "pinned" or "bundled"; "": as the user's configuration says
  std::vector<std::string> overrides;               // --override: "quantizer:mine=org.example.mine"
  std::string assume_devices;                       // plan only: "cuda:0=24GiB,cpu=64GiB"
  // Level 0 error, 1 warning, 2 information, 3 detail. Null: lines on stderr.
  std::function<void(int level, std::string_view line)> on_log;
};

struct TextPiece {
  size_t prompt = 0;
  std::string_view text;
};

struct Continuation {
  std::vector<int64_t> prompt_ids, ids;
  std::string text, finish_reason;  // "stop", "length" or "cancelled"
};

// Conversations of different lengths as one batch: the shorter ones end in padding.
struct MessageLogits {
  at::Tensor logits;     // [conversations, time, vocab] float32
  at::Tensor ids, mask;  // [conversations, time] int64: the tokens, those of media expanded; 1 where there is one, 0 on padding
};

class TENON_API Session {
 public:
  // Reads and checks the recipe. Error(Recipe) lists every problem.
  explicit Session(const std::filesystem::path& recipe, SessionOptions options = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // The ledger, before any weight byte is read: the JSON of `host plan --json`, or its text.
  Value plan();
  std::string plan_text();

  // Reads, quantizes and adapts the model; does nothing when it is loaded. Uses below load it themselves.
  void load();

  // ids: [batch, time] int64 -> [batch, time, vocab] float32. `media` are tensors as the architecture's processor makes them ("pixel_values").
  at::Tensor logits(const at::Tensor& ids, const std::map<std::string, at::Tensor>& media = {});
  // Each conversation is a list of messages {role, content}, through the chat template; content may hold parts {type = "image", path}.
  MessageLogits message_logits(const std::vector<Value>& conversations, bool add_generation_prompt = false);
  // Each prompt is a string, or a list of messages {role, content} as for message_logits; [generate] of the recipe says how.
  std::vector<Continuation> generate(const std::vector<Value>& prompts, const std::function<void(const TextPiece&)>& on_piece = nullptr);
  // {loss, perplexity, tokens} of the recipe's evaluation data.
  Value evaluate();
  // The whole way that the recipe names: load, generate, train, export. With `resume`, a training that stopped goes on from the newest
  // checkpoint-<step> in output.dir as if it had not stopped. Returns what run.json holds.
  Value run(bool resume = false);
  // Writes the model as it is now. Returns the files and what verification found.
  Value export_to(const std::filesystem::path& folder, const std::string& format = "", bool merge = false, bool verify = false);

  // From any thread: running work stops at its next step, with Error(Interrupted) or what it has so far.
  static void cancel();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenon
