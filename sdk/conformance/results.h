#pragma once
// Results as people, programs and build servers read them.
#include <string>
#include <vector>

#include "runner.h"
#include "tenon/value.h"

namespace tenon::conformance {

struct Summary {
  std::string file, id, version;  // of the plugin; id and version are empty when there is no manifest
  int level = 0;
  uint64_t seed = 0;
  std::vector<Result> results;

  int64_t count(Outcome outcome) const;
  bool all_well() const;  // nothing failed, crashed or timed out
};

std::string to_line(const Result& result);  // "pass  quantizer.linear  quantizer:mine"
std::string to_text(const Summary& summary);
// {file, id, version, level, seed, ok, counts {pass, fail, skip, crash, timeout}, checks [{id, subject, result, reason, protects, seconds}]}
Value to_value(const Summary& summary);
std::string to_junit(const Summary& summary);

// `--list`: every check with its level and its sentence.
std::string list_text();
Value list_value();

}  // namespace tenon::conformance
