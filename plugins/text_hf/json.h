#pragma once
// JSON text of a value: how tables cross the C interface.
#include <string>

#include "tenon/value.h"

namespace tenon::text_hf {

// Compact; floats keep a point or an exponent so that they stay floats. Throws Error(Data) for numbers that JSON does not have.
std::string to_json(const Value& value);

}  // namespace tenon::text_hf
