#include "global_state.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/InferenceMode.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cfenv>
#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <locale>
#include <map>

#include "tenon/error.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace tenon::conformance {

namespace {

const int kThreads = at::get_num_threads();

std::string on_off(bool value) { return value ? "on" : "off"; }

std::string random_state() {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard lock(generator.mutex());
  const at::Tensor state = generator.get_state();
  // FNV-1a of the state: two states differ or they do not.
  uint64_t h = 1469598103934665603ull;
  const auto* bytes = state.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < state.numel(); ++i) h = (h ^ bytes[i]) * 1099511628211ull;
  return concat("state ", h);
}

std::string handler_of(int signal) {
  struct sigaction action {};
  ::sigaction(signal, nullptr, &action);
  return concat(reinterpret_cast<const void*>(action.sa_handler));
}

}  // namespace

GlobalState read_global_state() {
  GlobalState state;
  auto add = [&](std::string name, auto&& value) { state.entries.emplace_back(std::move(name), concat(value)); };
  add("grad mode", on_off(at::GradMode::is_enabled()));
  add("inference mode", on_off(c10::InferenceMode::is_enabled()));
  add("autocast", on_off(at::autocast::is_autocast_enabled(at::kCPU)));
  add("default dtype", c10::toString(c10::get_default_dtype_as_scalartype()));
  add("LibTorch's thread count", at::get_num_threads());
  add("deterministic algorithms", on_off(at::globalContext().deterministicAlgorithms()));
  add("default random generator", random_state());
  add("locale", std::string(std::setlocale(LC_ALL, nullptr)) + " / " + std::locale().name());
  add("working directory", std::filesystem::current_path().string());
  const mode_t mask = ::umask(0);
  ::umask(mask);
  add("umask", mask);
  add("rounding mode", std::fegetround());
#if defined(__SSE__)
  add("floating-point control", _mm_getcsr() & ~0x3fu);  // the low bits are flags that every operation sets
#endif
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGPIPE, SIGCHLD, SIGALRM, SIGUSR1, SIGUSR2})
    add(concat("handler of ", ::sigabbrev_np(signal)), handler_of(signal));
  std::map<std::string, std::string> variables;
  for (char** variable = environ; variable && *variable; ++variable) {
    const std::string text = *variable;
    const size_t equals = std::min(text.find('='), text.size());
    variables[text.substr(0, equals)] = text.substr(equals);
  }
  for (auto& [name, value] : variables) state.entries.emplace_back("environment variable " + name, value);
  return state;
}

std::string difference(const GlobalState& before, const GlobalState& after) {
  std::string text;
  auto say = [&](const std::string& part) { text += (text.empty() ? "" : "; ") + part; };
  const std::map<std::string, std::string> old(before.entries.begin(), before.entries.end()),
      now(after.entries.begin(), after.entries.end());
  for (const auto& [name, value] : before.entries) {
    const auto found = now.find(name);
    const bool is_long = name.starts_with("environment") || name.starts_with("default random") || name.starts_with("handler");
    if (found == now.end())
      say(name + " is gone");
    else if (found->second != value)
      say(is_long ? name + " changed" : name + " was " + value + ", is " + found->second);
  }
  for (const auto& [name, value] : after.entries)
    if (!old.count(name)) say(name + " is new");
  return text;
}

void reset_torch_state() {
  at::GradMode::set_enabled(true);
  c10::set_default_dtype(caffe2::TypeMeta::Make<float>());
  if (at::get_num_threads() != kThreads) at::set_num_threads(kThreads);
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard lock(generator.mutex());
  generator.set_current_seed(0);
}

}  // namespace tenon::conformance
