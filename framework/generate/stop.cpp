#include "generate/stop.h"

#include <algorithm>

#include "tenon/error.h"

namespace tenon::host {

StopFinder::StopFinder(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const auto& stop : stops_)
    if (stop.empty()) fail(ErrorCode::Recipe, "generate.stop holds an empty string, which every text contains: remove it");
}

std::string StopFinder::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  size_t cut = std::string::npos;
  for (const auto& stop : stops_) cut = std::min(cut, held_.find(stop));
  if (cut != std::string::npos) {
    stopped_ = true;
    std::string text = held_.substr(0, cut);
    held_.clear();
    return text;
  }
  // The longest end of the text that begins a stop string waits for more.
  size_t wait = 0;
  for (const auto& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > wait; --n)
      if (held_.ends_with(std::string_view(stop).substr(0, n))) {
        wait = n;
        break;
      }
  std::string text = held_.substr(0, held_.size() - wait);
  held_.erase(0, held_.size() - wait);
  return text;
}

std::string StopFinder::finish() { return std::exchange(held_, {}); }

}  // namespace tenon::host
