#pragma once
// metrics.jsonl: one line a logged step or evaluation, on disk as soon as it is known.
#include <cstdio>
#include <filesystem>

#include "tenon/value.h"

namespace tenon::host {

class MetricsLog {
 public:
  explicit MetricsLog(const std::filesystem::path& file);  // an earlier file is replaced
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;
  ~MetricsLog();
  void write(const Value& line);

 private:
  std::FILE* file_;
  std::filesystem::path path_;
};

}  // namespace tenon::host
