#pragma once
// The plugin's side of one call from the host: which services there are, what an error of either side becomes. And what the host does
// for a plugin that launches kernels itself: threads, the current stream, JSON, the log.
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <string_view>

#include "tenon/stable/abi.h"
#include "tenon/stable/value.h"

#pragma GCC visibility push(hidden)
namespace tenon::stable {

namespace detail {

// A copy cut or filled with nulls to the size that these headers know.
inline tenon_services_v1 services{};
inline thread_local tenon_call* current_call = nullptr;

// The host failed, and knows why.
struct HostFailed {
  int32_t code;
};
// A function of the plugin leaves this call to the host's default.
struct UseDefault {};

inline void check(int32_t code) {
  if (code != TENON_OK) throw HostFailed{code};
}

class Entered {
 public:
  explicit Entered(tenon_call* call) : before_(current_call) { current_call = call; }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  ~Entered() { current_call = before_; }

 private:
  tenon_call* before_;
};

inline int32_t failed(tenon_call* call, int32_t code, std::string_view text) noexcept {
  services.fail(call, code, text.data(), static_cast<int64_t>(text.size()));
  return code;
}

// Nothing leaves as an exception.
template <class Body>
int32_t guarded(tenon_call* call, Body&& body) noexcept {
  const Entered entered(call);
  try {
    body();
    return TENON_OK;
  } catch (const UseDefault&) {
    return TENON_USE_DEFAULT;
  } catch (const HostFailed& host) {
    return host.code;
  } catch (const Error& error) {
    return failed(call, static_cast<int32_t>(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return failed(call, TENON_ERROR_DEVICE, "out of memory");
  } catch (const std::exception& error) {
    return failed(call, TENON_ERROR_PLUGIN, error.what());
  } catch (...) {
    return failed(call, TENON_ERROR_PLUGIN, "threw something that is no exception");
  }
}

}  // namespace detail

// These work inside a call from the host, on the thread that it came on.

// Runs body(begin, end) over disjoint parts of [0, n), each at least `grain` long, on the threads that the host gives to this call. No result may
// depend on the cut.
template <class Body>
void parallel_for(int64_t n, int64_t grain, const Body& body) {
  struct Work {
    const Body* body;
    std::mutex mutex;
    std::exception_ptr error;
  } work{&body, {}, nullptr};
  auto run = [](void* data, int64_t begin, int64_t end) {
    Work& w = *static_cast<Work*>(data);
    try {
      (*w.body)(begin, end);
    } catch (...) {  // must not cross the host's threads
      const std::lock_guard<std::mutex> lock(w.mutex);
      w.error = std::current_exception();
    }
  };
  detail::check(detail::services.parallel_for(detail::current_call, n, grain, run, &work));
  if (work.error) std::rethrow_exception(work.error);
}

// The cudaStream_t that LibTorch currently uses on that CUDA device.
inline void* current_cuda_stream(int32_t device_index) {
  void* stream = nullptr;
  detail::check(detail::services.cuda_stream(detail::current_call, device_index, &stream));
  return stream;
}

// Error(Data) as "origin:line:column: what was found".
inline Value parse_json(std::string_view text, const std::string& origin) {
  const tenon_value* value = nullptr;
  detail::check(detail::services.parse_json(detail::current_call, text.data(), static_cast<int64_t>(text.size()), origin.c_str(), &value));
  return read_value(*value);
}

inline std::string to_json(const Value& value) {
  ValueArena arena;
  const tenon_value plain = arena.lower(value);
  const char* text = nullptr;
  int64_t size = 0;
  detail::check(detail::services.print_json(detail::current_call, &plain, &text, &size));
  return {text, static_cast<size_t>(size)};
}

enum class LogLevel : int32_t { Error, Warn, Info, Debug };
inline void log(LogLevel level, std::string_view text) {
  detail::services.log(detail::current_call, static_cast<int32_t>(level), text.data(), static_cast<int64_t>(text.size()));
}

// Whether the user wants to stop; long work looks now and then and throws Error(ErrorCode::Interrupted, "...").
inline bool is_cancelled() { return detail::services.is_cancelled(detail::current_call) != 0; }

}  // namespace tenon::stable
#pragma GCC visibility pop
