#pragma once
// The host's own threads: for streaming loads and tokenization, apart from LibTorch's intra-op threads.
#include <cstddef>
#include <functional>

namespace tenon::host {

// Hardware threads this process may use, or TENON_THREADS.
int worker_count();

// Runs task(0) .. task(count - 1) on worker_count() threads, the caller's being one; indices are taken in order. The first exception stops
// further tasks from starting and is rethrown here once all running ones have ended. Inside a worker: runs them one after another.
void run_tasks(size_t count, const std::function<void(size_t)>& task);

// Whether this thread is at work in run_tasks: code below must not start threads of its own.
bool inside_worker();

}  // namespace tenon::host
