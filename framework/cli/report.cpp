#include "cli/report.h"

#include <new>
#include <string>

#include "base/log.h"
#include "base/text.h"

namespace tenon::host {

int report_error(const Error& error) {
  std::string block;
  auto flush = [&] {
    if (!block.empty()) log_error(block);
    block.clear();
  };
  for (const auto& line : split(error.what(), '\n')) {
    if (!block.empty() && !line.empty() && line[0] == ' ')
      block += "\n" + line;
    else
      flush(), block = line;
  }
  flush();
  if (error.code() == ErrorCode::Internal) log_error("this is a bug of tenon: please report it with the output of `host doctor`");
  return static_cast<int>(error.code());
}

int run_guarded(const std::function<int()>& body) {
  try {
    return body();
  } catch (const Error& error) {
    return report_error(error);
  } catch (const std::bad_alloc&) {
    return report_error(Error(ErrorCode::Device, "out of memory"));
  } catch (const std::exception& error) {
    return report_error(Error(ErrorCode::Internal, error.what()));
  }
}

}  // namespace tenon::host
