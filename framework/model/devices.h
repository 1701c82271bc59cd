#pragma once
// What this machine has: memory of the host, and CUDA devices when LibTorch's CUDA library can be loaded.
#include <cstdint>
#include <string>
#include <vector>

#include "model/load.h"

namespace tenon::host {

int64_t host_memory_available();  // MemAvailable, bounded by the cgroup's limit
int64_t host_memory_now();        // VmRSS of this process
int64_t host_memory_peak();       // VmHWM
void reset_host_memory_peak();    // VmHWM starts again from VmRSS

// CUDA devices with their free bytes. Loads LibTorch's CUDA library only on a machine with a driver; "" in `problem` or why there is none.
std::vector<DeviceBudget> cuda_devices(std::string* problem = nullptr);

// "cuda:0=24GiB,cpu=64GiB"; Error(Usage) naming the part that is wrong.
std::vector<DeviceBudget> parse_devices(const std::string& text);

}  // namespace tenon::host
