#include "base/workers.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace tenon::host {

namespace {
thread_local bool at_work = false;
}

int worker_count() {
  static const int count = [] {
    if (const char* wanted = std::getenv("TENON_THREADS"))
      if (const int n = std::atoi(wanted); n > 0) return std::min(n, 1024);
    cpu_set_t set;
    if (::sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return count;
}

bool inside_worker() { return at_work; }

void run_tasks(size_t count, const std::function<void(size_t)>& task) {
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr first;
  std::mutex mutex;
  auto work = [&] {
    const bool nested = at_work;
    at_work = true;
    for (size_t i; !failed && (i = next.fetch_add(1)) < count;) {
      try {
        task(i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failed.exchange(true)) first = std::current_exception();
      }
    }
    at_work = nested;
  };
  std::vector<std::thread> threads;
  if (!at_work)
    for (size_t i = 1; i < std::min<size_t>(count, static_cast<size_t>(worker_count())); ++i) threads.emplace_back(work);
  work();
  for (auto& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace tenon::host
