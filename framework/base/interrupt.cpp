#include "base/interrupt.h"

#include <unistd.h>
#include <csignal>

#include "tenon/error.h"

namespace tenon::host {

namespace {
volatile std::sig_atomic_t flag = 0;

void on_interrupt(int) {
  if (flag) ::_exit(130);
  flag = 1;
}
}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return flag != 0; }
void set_interrupted(bool value) { flag = value ? 1 : 0; }
void throw_if_interrupted() {
  if (flag) fail(ErrorCode::Interrupted, "interrupted");
}

}  // namespace tenon::host
