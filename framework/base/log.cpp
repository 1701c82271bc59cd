#include "base/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <mutex>

#include "base/seconds.h"
#include "base/text.h"

namespace tenon::host {

namespace {

std::atomic<LogLevel> threshold{LogLevel::Info};

struct Output {
  std::mutex mutex;
  std::function<void(LogLevel, std::string_view)> sink;
  bool live_line = false;  // a progress line stands at the cursor
};
Output& output() {
  static auto* const shared = new Output;  // never destroyed: logging works to the end
  return *shared;
}

bool on_terminal() {
  static const bool terminal = ::isatty(STDERR_FILENO) == 1;
  return terminal;
}

}  // namespace

void log(LogLevel level, std::string_view text) {
  if (level > threshold.load()) return;
  Output& out = output();
  std::lock_guard lock(out.mutex);
  if (out.sink) return out.sink(level, text);
  if (out.live_line) std::fputs("\r\033[K", stderr), out.live_line = false;
  const char* prefix = level == LogLevel::Error   ? "error: "
                       : level == LogLevel::Warn  ? "warning: "
                       : level == LogLevel::Debug ? "debug: "
                                                  : "";
  std::fprintf(stderr, "%s%.*s\n", prefix, static_cast<int>(text.size()), text.data());
}

void set_log_level(LogLevel level) { threshold = level; }

void set_log_sink(std::function<void(LogLevel, std::string_view)> sink) {
  Output& out = output();
  std::lock_guard lock(out.mutex);
  out.sink = std::move(sink);
}

struct Progress::Impl {
  std::string label, note;
  int64_t total = 0;
  bool is_bytes = false, finished = false;
  std::atomic<int64_t> done{0};
  double start = now();
  std::atomic<double> last{0};
  std::mutex mutex;

  std::string amount(int64_t n) const { return is_bytes ? human_bytes(n) : human_count(n); }

  void draw() {
    const int64_t n = done.load();
    const double elapsed = now() - start, rate = elapsed > 0 ? static_cast<double>(n) / elapsed : 0;
    const double share = total > 0 ? static_cast<double>(n) / static_cast<double>(total) : 0;
    std::string line = fmt::format("{} {:3.0f} %  {} of {}", label, 100 * share, amount(n), amount(total));
    if (rate > 0)
      line += fmt::format(", {}/s, {} left", amount(static_cast<int64_t>(rate)), human_seconds(static_cast<double>(total - n) / rate));
    if (!note.empty()) line += ", " + note;
    Output& out = output();
    std::lock_guard lock(out.mutex);
    if (out.sink) return;
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
    std::fflush(stderr);
    out.live_line = true;
  }
};

Progress::Progress(std::string label, int64_t total, bool is_bytes) : impl_(new Impl) {
  impl_->label = std::move(label);
  impl_->total = total;
  impl_->is_bytes = is_bytes;
}

Progress::~Progress() {
  if (!impl_->finished && on_terminal()) {
    Output& out = output();
    std::lock_guard lock(out.mutex);
    if (out.live_line) std::fputs("\r\033[K", stderr), out.live_line = false;
  }
  delete impl_;
}

void Progress::add(int64_t done) {
  impl_->done += done;
  if (!on_terminal()) return;
  const double t = now();
  double last = impl_->last.load();
  if (t - last >= 0.1 && impl_->last.compare_exchange_strong(last, t)) {
    std::lock_guard lock(impl_->mutex);
    impl_->draw();
  }
}

void Progress::note(std::string text) {
  std::lock_guard lock(impl_->mutex);
  impl_->note = std::move(text);
}

void Progress::finish() {
  if (impl_->finished) return;
  impl_->finished = true;
  const double elapsed = now() - impl_->start;
  const int64_t n = impl_->done.load();
  const std::string rate = elapsed > 0 ? impl_->amount(static_cast<int64_t>(static_cast<double>(n) / elapsed)) + "/s" : "";
  log_debug(fmt::format("{}: {} in {}, {}", impl_->label, impl_->amount(n), human_seconds(elapsed), rate));
  if (on_terminal()) {
    Output& out = output();
    std::lock_guard lock(out.mutex);
    if (out.live_line) std::fputs("\r\033[K", stderr), out.live_line = false;
  }
}

}  // namespace tenon::host
