#include "train/plot.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

using namespace tenon::host;

namespace {
size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}
}  // namespace

TEST_CASE("the plot draws training loss, its average and evaluations inside the frame") {
  Points train, eval;
  for (int i = 1; i <= 100; ++i) train.emplace_back(i, 3.0 / i + 1);
  eval = {{50, 1.2}, {100, 1.1}};
  const std::string svg = loss_svg(train, eval, "a <run> & more");
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, "class=\"dot\"") == 2);
  CHECK(count(svg, "<polyline class=\"raw\"") == 1);
  CHECK(count(svg, "<polyline class=\"train\"") == 2);  // the curve and its legend
  CHECK(svg.find("a &lt;run&gt; &amp; more") != std::string::npos);
  CHECK(svg.find("prefers-color-scheme: dark") != std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
  // The last point of the training curve lies at the right edge.
  CHECK(svg.find("700.0,") != std::string::npos);
}

TEST_CASE("a plot of little or nothing is still a picture") {
  for (const Points& points : {Points{}, Points{{1, 2.0}}, Points{{1, 2.0}, {2, 2.0}}}) {
    const std::string svg = loss_svg(points, {}, "run");
    CHECK(svg.ends_with("</svg>\n"));
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
  }
}
