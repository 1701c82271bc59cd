#pragma once
// A function that stops in the middle and goes on later, on a stack of its own and the caller's thread: what it holds stays as it is meanwhile.
// Calibration runs a block once this way, stopping where a stage's inputs are known, instead of once for every stage.
#include <functional>
#include <memory>

namespace tenon::host {

class PausedRun {
 public:
  explicit PausedRun(std::function<void()> body);
  // A body that has not ended is unwound: pause() throws where it stands.
  ~PausedRun();
  PausedRun(const PausedRun&) = delete;
  PausedRun& operator=(const PausedRun&) = delete;

  // Starts the body, or goes on behind its last pause(). True: it has ended. What it throws arrives here; not to be called again afterwards.
  bool resume();
  // Of the body alone, and not while it handles an exception: back to whoever called resume().
  void pause();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace tenon::host
