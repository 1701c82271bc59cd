#pragma once
// The part of `host doctor` that needs no LibTorch: this program, this machine, the plugin folders.
#include <string>

#include "plugins/discovery.h"
#include "tenon/value.h"

namespace tenon::host {

Value doctor_light(const SearchPath& search);
// "key: value" lines, nested ones indented.
std::string doctor_text(const Value& page);

}  // namespace tenon::host
