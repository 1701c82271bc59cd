#include "tenon/log.h"

#include "base/log.h"
#include "plugins/breadcrumb.h"

namespace tenon::log {

namespace {

void write(host::LogLevel level, std::string_view text) {
  const std::string id = host::current_plugin();
  host::log(level, (id.empty() ? "a plugin" : id) + ": " + std::string(text));
}

}  // namespace

void warn(std::string_view text) { write(host::LogLevel::Warn, text); }
void info(std::string_view text) { write(host::LogLevel::Info, text); }
void debug(std::string_view text) { write(host::LogLevel::Debug, text); }

}  // namespace tenon::log
