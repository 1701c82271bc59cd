#pragma once
// A function that can pause in the middle and go on later, on a stack of its own.
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>

// glibc's swapcontext asks the kernel for the signal mask each time, which takes most of a test's time; sanitizers know no other way.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SHSTK__)
#define CUDA_ON_CPU_OWN_SWITCH 1
#else
#define CUDA_ON_CPU_OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

#if CUDA_ON_CPU_OWN_SWITCH
// What a call preserves goes onto the stack, then the other stack is taken.
__attribute__((naked, noinline)) inline void switch_stacks(void** /*from*/, void* /*to*/) {
  asm volatile(
      "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
      "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
}
#endif

class Fiber {
 public:
  void start(std::function<void()> body) {
    body_ = std::move(body);
    if (!state_) state_ = std::make_unique<State>();
#if CUDA_ON_CPU_OWN_SWITCH
    // Six registers, where to begin, and a return address that is never used: at entry the stack is as after a call.
    void* top[8] = {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, reinterpret_cast<void*>(&Fiber::enter), nullptr};
    state_->own = state_->stack + sizeof state_->stack - 16 - sizeof top;
    std::memcpy(state_->own, top, sizeof top);
#else
    getcontext(&state_->own);
    state_->own.uc_stack.ss_sp = state_->stack;
    state_->own.uc_stack.ss_size = sizeof state_->stack;
    state_->own.uc_link = &state_->caller;
    makecontext(&state_->own, &Fiber::enter, 0);
#endif
  }
  void resume() {
    running() = this;
#if CUDA_ON_CPU_OWN_SWITCH
    switch_stacks(&state_->caller, state_->own);
#else
    swapcontext(&state_->caller, &state_->own);
#endif
  }
  void pause() {
#if CUDA_ON_CPU_OWN_SWITCH
    switch_stacks(&state_->own, state_->caller);
#else
    swapcontext(&state_->own, &state_->caller);
#endif
  }

 private:
  struct State {
#if CUDA_ON_CPU_OWN_SWITCH
    void *own, *caller;
#else
    ucontext_t own, caller;
#endif
    alignas(16) unsigned char stack[64 * 1024];
  };
  static Fiber*& running() {
    static Fiber* fiber = nullptr;
    return fiber;
  }
  static void enter() {
    Fiber& self = *running();
    self.body_();
#if CUDA_ON_CPU_OWN_SWITCH
    self.pause();  // for good
#endif
  }
  std::function<void()> body_;
  std::unique_ptr<State> state_;
};

}  // namespace cuda_on_cpu
