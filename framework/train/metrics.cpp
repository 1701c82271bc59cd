#include "train/metrics.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "tenon/error.h"

namespace tenon::host {

MetricsLog::MetricsLog(const std::filesystem::path& file, int64_t keep) : path_(file) {
  if (std::ifstream earlier(file); keep >= 0 && earlier)
    for (std::string line; std::getline(earlier, line);) {
      // The last line of a killed run may be cut.
      if (line.empty() || line.back() != '}') continue;
      Value row = parse_json(line, file.string());
      if (row.int_or("step", keep + 1) <= keep) kept_.push_back(std::move(row));
    }
  // Complete under its name at once, also where a second run is killed here.
  std::string text;
  for (const Value& row : kept_) text += to_json(row) + "\n";
  write_file(file, text);
  file_ = std::fopen(file.c_str(), "ae");
  if (!file_) fail(ErrorCode::Data, file.string(), ": ", std::strerror(errno));
}

MetricsLog::~MetricsLog() { std::fclose(file_); }

void MetricsLog::write(const Value& line) {
  const std::string text = to_json(line) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0)
    fail(ErrorCode::Data, path_.string(), ": ", std::strerror(errno));
}

}  // namespace tenon::host
