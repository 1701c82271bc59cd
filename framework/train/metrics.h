#pragma once
// metrics.jsonl: one line a logged step or evaluation, on disk as soon as it is known.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "tenon/value.h"

namespace tenon::host {

class MetricsLog {
 public:
  // An earlier file is replaced; of its lines, those up to step `keep` stay.
  explicit MetricsLog(const std::filesystem::path& file, int64_t keep = -1);
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;
  ~MetricsLog();
  void write(const Value& line);
  const std::vector<Value>& kept() const { return kept_; }

 private:
  std::vector<Value> kept_;
  std::FILE* file_ = nullptr;
  std::filesystem::path path_;
};

}  // namespace tenon::host
