#pragma once
// loss.svg: training and evaluation loss over steps, readable on light and dark pages.
#include <string>
#include <utility>
#include <vector>

namespace tenon::host {

using Points = std::vector<std::pair<double, double>>;  // step, loss

// train: a faint line and, from 20 points on, its moving average; eval: a line with dots. Either may be empty.
std::string loss_svg(const Points& train, const Points& eval, const std::string& title);

}  // namespace tenon::host
