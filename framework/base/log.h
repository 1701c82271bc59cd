#pragma once
// The log goes to stderr, results to stdout. A library client may take the lines over with set_log_sink.
#include <functional>
#include <string>
#include <string_view>

namespace tenon::host {

enum class LogLevel { Error, Warn, Info, Debug };

void log(LogLevel level, std::string_view text);
inline void log_error(std::string_view text) { log(LogLevel::Error, text); }
inline void log_warn(std::string_view text) { log(LogLevel::Warn, text); }
inline void log_info(std::string_view text) { log(LogLevel::Info, text); }
inline void log_debug(std::string_view text) { log(LogLevel::Debug, text); }

void set_log_level(LogLevel level);
// Null restores stderr. The sink is called under a lock.
void set_log_sink(std::function<void(LogLevel, std::string_view)> sink);

// One live line on a terminal, rewritten in place at most ten times a second; nothing when stderr is no terminal (finish() then logs one summary line).
// Thread-safe.
class Progress {
 public:
  Progress(std::string label, int64_t total, bool is_bytes);
  ~Progress();
  void add(int64_t done);
  void note(std::string text);  // shown behind the rate ("loss 2.31")
  void finish();

 private:
  struct Impl;
  Impl* impl_;
};

}  // namespace tenon::host
