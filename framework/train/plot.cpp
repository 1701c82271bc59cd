#include "train/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace tenon::host {

namespace {

constexpr double kWidth = 720, kHeight = 400, kLeft = 62, kRight = 20, kTop = 44, kBottom = 46;
constexpr size_t kSmoothFrom = 20;

// Round numbers that span [low, high] in about `count` steps.
std::vector<double> ticks(double low, double high, int count) {
  const double raw = (high - low) / count, power = std::pow(10, std::floor(std::log10(raw))), lead = raw / power;
  const double step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  std::vector<double> marks;
  for (double at = std::ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step)
    marks.push_back(std::abs(at) < step * 1e-9 ? 0 : at);
  return marks;
}

struct Frame {
  double x0, x1, y0, y1;
  double x(double v) const { return kLeft + (v - x0) / (x1 - x0) * (kWidth - kLeft - kRight); }
  double y(double v) const { return kHeight - kBottom - (v - y0) / (y1 - y0) * (kHeight - kTop - kBottom); }
};

std::string polyline(const Frame& frame, const Points& points, const char* style) {
  if (points.size() < 2) return "";
  std::string text = fmt::format("<polyline class=\"{}\" points=\"", style);
  for (const auto& [step, loss] : points) text += fmt::format("{:.1f},{:.1f} ", frame.x(step), frame.y(loss));
  text.back() = '"';
  return text + "/>\n";
}

// Exponential moving average over about a twentieth of the points, corrected at its start.
Points smoothed(const Points& points) {
  const double keep = 1 - 1 / std::max(4.0, static_cast<double>(points.size()) / 20);
  Points out;
  double sum = 0, weight = 0;
  for (const auto& [step, loss] : points) {
    sum = keep * sum + (1 - keep) * loss;
    weight = keep * weight + (1 - keep);
    out.emplace_back(step, sum / weight);
  }
  return out;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

}  // namespace

std::string loss_svg(const Points& train, const Points& eval, const std::string& title) {
  Frame frame{0, 1, std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (const Points* points : {&train, &eval})
    for (const auto& [step, loss] : *points) {
      frame.x1 = std::max(frame.x1, step);
      frame.y0 = std::min(frame.y0, loss);
      frame.y1 = std::max(frame.y1, loss);
    }
  if (!(frame.y0 <= frame.y1)) frame.y0 = 0, frame.y1 = 1;
  const double pad = std::max((frame.y1 - frame.y0) * 0.06, 1e-3 * std::max(1.0, std::abs(frame.y1)));
  frame.y1 += pad;
  frame.y0 = frame.y0 >= 0 ? std::max(0.0, frame.y0 - pad) : frame.y0 - pad;

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"loss over "
      "steps\">\n"
      "<style>\n"
      "text {{ font: 12px system-ui, sans-serif; fill: #57606a }} .title {{ font-size: 14px; font-weight: 600; fill: #1f2328 }}\n"
      ".page {{ fill: #ffffff }} .grid {{ stroke: #d0d7de; stroke-width: 1 }} polyline {{ fill: none; stroke-linejoin: round; "
      "stroke-linecap: round }}\n"
      ".raw {{ stroke: #0969da; stroke-width: 1.2; opacity: .35 }} .train {{ stroke: #0969da; stroke-width: 2 }} .eval {{ stroke: #bc4c00; "
      "stroke-width: 2 }} .dot {{ fill: #bc4c00 }}\n"
      "@media (prefers-color-scheme: dark) {{ text {{ fill: #9198a1 }} .title {{ fill: #f0f6fc }} .page {{ fill: #0d1117 }} .grid {{ "
      "stroke: #30363d }}\n"
      ".raw, .train {{ stroke: #4493f8 }} .eval {{ stroke: #f0883e }} .dot {{ fill: #f0883e }} }}\n"
      "</style>\n<rect class=\"page\" width=\"{0}\" height=\"{1}\" rx=\"6\"/>\n<text class=\"title\" x=\"{2}\" y=\"26\">{3}</text>\n",
      kWidth, kHeight, kLeft, escaped(title));
  for (double mark : ticks(frame.y0, frame.y1, 6)) {
    const double y = frame.y(mark);
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/><text x=\"{:.1f}\" y=\"{:.1f}\" "
        "text-anchor=\"end\">{:.4g}</text>\n",
        kLeft, y, kWidth - kRight, y, kLeft - 8, y + 4, mark);
  }
  for (double mark : ticks(frame.x0, frame.x1, 8))
    if (mark == std::floor(mark))
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.0f}</text>\n", frame.x(mark), kHeight - kBottom + 18,
                         mark);
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">step</text>\n", (kLeft + kWidth - kRight) / 2, kHeight - 8);

  const bool is_smooth = train.size() >= kSmoothFrom;
  svg += polyline(frame, train, is_smooth ? "raw" : "train");
  if (is_smooth) svg += polyline(frame, smoothed(train), "train");
  svg += polyline(frame, eval, "eval");
  for (const auto& [step, loss] : eval)
    svg += fmt::format("<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"/>\n", frame.x(step), frame.y(loss));

  double x = kWidth - kRight;
  auto legend = [&](const char* name, const char* style, const Points& points) {
    if (points.empty()) return;
    const std::string label = fmt::format("{} {:.4g}", name, points.back().second);
    x -= static_cast<double>(label.size()) * 7 + 30;
    svg += fmt::format("<polyline class=\"{}\" points=\"{:.1f},22 {:.1f},22\"/><text x=\"{:.1f}\" y=\"26\">{}</text>\n", style, x, x + 18,
                       x + 24, label);
  };
  legend("eval", "eval", eval);
  legend("train", "train", is_smooth ? smoothed(train) : train);
  return svg + "</svg>\n";
}

}  // namespace tenon::host
