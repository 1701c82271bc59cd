// The door of libtenon.so that `host` knocks at.
#include <c10/util/Exception.h>

#include <map>
#include <string>

#include "base/interrupt.h"
#include "base/log.h"
#include "cli/heavy_verbs.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "model/block_allocator.h"
#include "plugins/breadcrumb.h"
#include "tenon/export.h"

namespace tenon::host {

namespace {

using Run = int (*)(const Args&);

const std::map<std::string, Run>& runners() {
  static const auto* const all = new std::map<std::string, Run>{
      {"run", verb_run},
      {"plan", verb_plan},
      {"logits", verb_logits},
      {"generate", verb_generate},
      {"tokenize", verb_tokenize},
      {"data", verb_data},
      {"eval", verb_eval},
      {"export", verb_export},
      {"__bench", verb_bench},
      {"plugins", verb_describe},
      {"__docs", verb_docs},
      {"doctor", verb_doctor},
      {"check-plugin", verb_check_plugin},
      {"__check", verb_check},
  };
  return *all;
}

// LibTorch's errors without its backtrace.
[[noreturn]] void rethrow(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  const bool is_memory = dynamic_cast<const c10::OutOfMemoryError*>(&error) || text.find("can't allocate memory") != std::string::npos ||
                         text.find("out of memory") != std::string::npos;
  throw Error(is_memory ? ErrorCode::Device : ErrorCode::Internal, text);
}

int run_verb(const Args& args) {
  if (args.debug) set_log_level(LogLevel::Debug);
  const auto found = args.verb ? runners().find(args.verb->name) : runners().end();
  if (found == runners().end()) fail(ErrorCode::Internal, "libtenon.so has no code for this verb");
#ifndef __SANITIZE_ADDRESS__  // which watches malloc's memory
  use_block_allocator();
#endif
  install_crash_handler();
  install_interrupt_handler();
  try {
    return found->second(args);
  } catch (const c10::Error& error) {
    rethrow(error);
  }
}

}  // namespace

}  // namespace tenon::host

extern "C" TENON_API int tenon_cli_main(const tenon::host::Args* args);
int tenon_cli_main(const tenon::host::Args* args) {
  return tenon::host::run_guarded([&] { return tenon::host::run_verb(*args); });
}
