#pragma once
// Memory of this process, from /proc/self/status.
#include <cstdint>

namespace tenon::host {

int64_t resident_bytes();       // VmRSS; 0 where it cannot be read
int64_t peak_resident_bytes();  // VmHWM: the most so far

}  // namespace tenon::host
