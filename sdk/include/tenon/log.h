#pragma once
// The host's log for plugins. A line carries the plugin's id in front: "warning: org.example.mine: 3 rows are all zero". Any thread; outside a call
// from the host the id is not known and "a plugin" stands in its place. Results belong into return values, nothing into stdout.
#include <string_view>

#include "tenon/export.h"

namespace tenon::log {

TENON_API void warn(std::string_view text);   // something was decided instead of what was asked for
TENON_API void info(std::string_view text);   // sparingly: a user reads it on every run
TENON_API void debug(std::string_view text);  // shown with --debug

}  // namespace tenon::log
