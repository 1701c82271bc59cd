#pragma once
// What a call throws, and what its text says.
#include <doctest/doctest.h>

#include <optional>
#include <string>

#include "tenon/error.h"

namespace tenon::testing {

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The text of the Error that a call throws, "no error" when it throws none; with a code, that is checked too.
template <class Body>
std::string error_of(Body&& body, std::optional<ErrorCode> code = {}) {
  try {
    body();
  } catch (const Error& error) {
    if (code) CHECK(error.code() == *code);
    return error.what();
  }
  return "no error";
}

}  // namespace tenon::testing
