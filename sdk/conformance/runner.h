#pragma once
// Runs checks in child processes: a plugin that crashes, hangs or ends its process takes a child with it and nothing else.
// The parent asks one check a line, "id<TAB>subject", and the child answers "pass|fail|skip<TAB>reason" (serve()).
#include <functional>
#include <string>
#include <vector>

#include "check.h"

namespace tenon::conformance {

struct Planned {
  std::string id, subject, needs;
};

struct Result {
  std::string id, subject;
  Outcome outcome = Outcome::Pass;
  std::string reason;  // of anything but a pass
  double seconds = 0;
};

struct RunnerOptions {
  std::vector<std::string> command;         // the child's program and arguments
  double timeout_seconds = 60;              // of one check
  std::function<bool()> cancelled;          // asked ten times a second; may be empty
  std::function<void(const Result&)> done;  // after each check; may be empty
};

// In the order given. The checks of one group and subject share a child until one of them crashes or hangs; from then on each has its own.
// A check whose `needs` did not pass is skipped with that reason; what is not planned counts as passed.
std::vector<Result> run_checks(const std::vector<Planned>& plan, const RunnerOptions& options);

// The checks of a plugin's file: those up to `level` whose id, or "id@kind:name", matches the glob (empty: all).
std::vector<Planned> plan_checks(const std::vector<Provided>& provides, int level, const std::string& only);

// The child: answers on standard output what it is asked on standard input, until that ends. Whatever a plugin prints goes to standard error.
void serve(const Subject& subject, int level, uint64_t seed, bool reproduces);

}  // namespace tenon::conformance
