#include "model/paused_run.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <exception>
#include <new>
#include <utility>

#include "plugins/trail.h"
#include "tenon/error.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace tenon::host {

namespace {

constexpr size_t kStackBytes = size_t{8} << 20;  // as a thread has; only what is touched becomes memory

struct Unwinding {};  // thrown by pause() when nobody will go on

}  // namespace

struct PausedRun::Context {
  explicit Context(std::function<void()> b) : body(std::move(b)) {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    void* memory =
        ::mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mapped = kStackBytes + page;
    base = static_cast<char*>(memory);
    stack = base + page;
    ::mprotect(base, page, PROT_NONE);  // running over the end is a crash, not damage elsewhere
    ::getcontext(&own);
    own.uc_stack.ss_sp = stack;
    own.uc_stack.ss_size = kStackBytes;
    own.uc_link = &caller;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    ::makecontext(&own, reinterpret_cast<void (*)()>(&Context::enter), 2, static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
  }
  ~Context() { ::munmap(base, mapped); }

  // makecontext passes ints alone.
  static void enter(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Context*>(static_cast<std::uintptr_t>(high) << 32 | low);
    self->arrived(nullptr);
    try {
      self->body();
    } catch (...) {
      if (!self->unwinding) self->error = std::current_exception();
    }
    self->body = nullptr;
    self->ended = true;
    self->trail = exchange_trail(self->trail);
    self->leaving(nullptr);
  }

  void go() {
    trail = exchange_trail(trail);
    void* fake = nullptr;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fake, stack, kStackBytes);
#endif
    ::swapcontext(&caller, &own);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    (void)fake;
  }
  void back() {
    trail = exchange_trail(trail);
    void* fake = nullptr;
    leaving(&fake);
    ::swapcontext(&own, &caller);
    arrived(fake);
  }

  // What AddressSanitizer must know about a change of stacks, on this side of it.
  void arrived([[maybe_unused]] void* fake) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, &caller_stack, &caller_bytes);
#endif
  }
  void leaving([[maybe_unused]] void** fake) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(fake, caller_stack, caller_bytes);
#endif
  }

  std::function<void()> body;
  ucontext_t caller{}, own{};
  char *base = nullptr, *stack = nullptr;
  size_t mapped = 0;
  const void* trail = nullptr;  // whose plugin calls the other side is in
  std::exception_ptr error;
  bool started = false, ended = false, unwinding = false;
  const void* caller_stack = nullptr;
  size_t caller_bytes = 0;
};

PausedRun::PausedRun(std::function<void()> body) : context_(std::make_unique<Context>(std::move(body))) {}

PausedRun::~PausedRun() {
  if (!context_->started || context_->ended) return;
  context_->unwinding = true;
  context_->go();
  if (!context_->ended) std::terminate();  // a body that swallows everything and pauses again has no end
}

bool PausedRun::resume() {
  if (context_->ended) fail(ErrorCode::Internal, "a run that has ended was resumed");
  context_->started = true;
  context_->go();
  if (context_->error) std::rethrow_exception(std::exchange(context_->error, nullptr));
  return context_->ended;
}

void PausedRun::pause() {
  if (!context_->unwinding) context_->back();
  if (context_->unwinding) throw Unwinding{};
}

}  // namespace tenon::host
