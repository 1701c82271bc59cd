#pragma once
// How a verb ends: errors to stderr, one line each, and the exit status.
#include <functional>

#include "tenon/error.h"

namespace tenon::host {

// Prints "error: ..." for each problem of the message; lines that start with a space belong to the one before. Returns the exit status.
int report_error(const Error& error);

// Runs `body` and reports what leaves it.
int run_guarded(const std::function<int()>& body);

}  // namespace tenon::host
