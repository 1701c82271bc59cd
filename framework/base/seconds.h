#pragma once
// Time that passes, in seconds, on a clock that nobody sets.
#include <chrono>

namespace tenon::host {

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
// Since some moment that stays the same while the process runs.
inline double now() { return seconds_since({}); }

}  // namespace tenon::host
