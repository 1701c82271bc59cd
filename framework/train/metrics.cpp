#include "train/metrics.h"

#include <cerrno>
#include <cstring>

#include "base/json.h"
#include "tenon/error.h"

namespace tenon::host {

MetricsLog::MetricsLog(const std::filesystem::path& file) : file_(std::fopen(file.c_str(), "we")), path_(file) {
  if (!file_) fail(ErrorCode::Data, file.string(), ": ", std::strerror(errno));
}

MetricsLog::~MetricsLog() { std::fclose(file_); }

void MetricsLog::write(const Value& line) {
  const std::string text = to_json(line) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0)
    fail(ErrorCode::Data, path_.string(), ": ", std::strerror(errno));
}

}  // namespace tenon::host
