#pragma once
#include "cuda_runtime.h"

// What is not yet waited for is not yet there.
inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t size, std::size_t zeros = 0) {
  if (size != 4 && size != 8 && size != 16) throw std::logic_error("cuda_on_cpu: an asynchronous copy of another size than 4, 8 or 16");
  if (reinterpret_cast<std::uintptr_t>(to) % size != 0 || reinterpret_cast<std::uintptr_t>(from) % size != 0)
    throw std::logic_error("cuda_on_cpu: an asynchronous copy that is not aligned");
  cuda_on_cpu::machine.now->open.push_back({to, from, size, zeros});
}
inline void __pipeline_commit() {
  cuda_on_cpu::Thread& self = *cuda_on_cpu::machine.now;
  self.committed.push_back(std::move(self.open));
  self.open.clear();
}
inline void __pipeline_wait_prior(std::size_t left) {
  auto& committed = cuda_on_cpu::machine.now->committed;
  while (committed.size() > left) {
    for (const auto& copy : committed.front()) {
      if (copy.size > copy.zeros) std::memcpy(copy.to, copy.from, copy.size - copy.zeros);
      std::memset(static_cast<unsigned char*>(copy.to) + (copy.size - copy.zeros), 0, copy.zeros);
    }
    committed.erase(committed.begin());
  }
}
