#pragma once
// Stop strings in a stream of text: found across the borders of pieces; text that may be the beginning of one is held back.
#include <string>
#include <string_view>
#include <vector>

namespace tenon::host {

class StopFinder {
 public:
  // Error(Recipe) for an empty stop string.
  explicit StopFinder(std::vector<std::string> stops);

  // -> what can be shown now. Once stopped: "" forever.
  std::string push(std::string_view piece);
  // -> what was held back, at the end without a stop string.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace tenon::host
