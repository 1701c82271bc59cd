#include "generate/sampler.h"

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {
GenerateSection sampling() {
  GenerateSection settings;
  settings.do_sample = true;
  return settings;
}

// Logits whose softmax is these probabilities.
std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// Which tokens 2,000 draws find.
std::map<int64_t, int> draws(const GenerateSection& settings, const std::vector<float>& logits, int count = 2000) {
  std::map<int64_t, int> found;
  Sampler sampler(settings, {}, 0);
  for (int i = 0; i < count; ++i) {
    auto copy = logits;
    ++found[sampler.choose(copy)];
  }
  return found;
}

std::set<int64_t> support(const GenerateSection& settings, const std::vector<double>& probabilities) {
  std::set<int64_t> ids;
  for (const auto& [id, count] : draws(settings, logits_of(probabilities))) ids.insert(id);
  return ids;
}
}  // namespace

TEST_CASE("the sampler takes the first of the best tokens when it does not sample") {
  std::vector<float> logits{1, 3, 3, 2};
  CHECK(Sampler({}, {}, 0).choose(logits) == 1);
  GenerateSection cold = sampling();
  cold.temperature = 0;
  logits = {1, 3, 3, 4};
  CHECK(Sampler(cold, {}, 0).choose(logits) == 3);
}

TEST_CASE("the repetition penalty divides positive and multiplies negative logits, once per token") {
  GenerateSection settings;
  settings.repetition_penalty = 2;
  std::vector<float> logits{4, 3, -1, -1.5};
  const std::vector<int64_t> prompt{0, 0, 2, 99};
  Sampler sampler(settings, prompt, 0);
  CHECK(sampler.choose(logits) == 1);
  CHECK(logits == std::vector<float>{2, 3, -2, -1.5});
  // What was chosen counts from then on.
  logits = {4, 3, -1, -1.5};
  CHECK(sampler.choose(logits) == 0);
  CHECK(logits == std::vector<float>{2, 1.5, -2, -1.5});
}

TEST_CASE("banned tokens are not chosen") {
  std::vector<float> logits{1, 3, 2};
  const std::vector<int64_t> banned{1, 7};
  CHECK(Sampler({}, {}, 0).choose(logits, banned) == 2);
  const std::vector<int64_t> all{0, 1, 2};
  logits = {1, 3, 2};
  CHECK_THROWS_AS(Sampler({}, {}, 0).choose(logits, all), Error);
}

TEST_CASE("top_k keeps k tokens and those equal to the last of them") {
  GenerateSection settings = sampling();
  settings.top_k = 2;
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1, 3});
  CHECK(support(settings, {0.25, 0.3, 0.2, 0.25}) == std::set<int64_t>{0, 1, 3});
  settings.top_k = 50;
  CHECK(support(settings, {0.25, 0.3, 0.2, 0.25}).size() == 4);
}

TEST_CASE("top_p keeps the token that reaches the mass, and at least one") {
  GenerateSection settings = sampling();
  settings.top_p = 0.75;
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1, 2, 3});
  settings.top_p = 0.65;
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1, 3});
  settings.top_p = 0;
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1});
  // Of equals the last ids stay.
  settings.top_p = 0.45;
  CHECK(support(settings, {0.25, 0.25, 0.25, 0.25}) == std::set<int64_t>{2, 3});
}

TEST_CASE("top_p sees what top_k left, with its mass renormalised") {
  GenerateSection settings = sampling();
  settings.top_k = 2;
  settings.top_p = 0.55;  // 0.4 / (0.4 + 0.3) = 0.571 reaches it; 0.4 alone would not
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1});
}

TEST_CASE("min_p measures against the best token, after temperature") {
  GenerateSection settings = sampling();
  settings.min_p = 0.6;
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1, 3});
  // At temperature 2 the ratio 0.2 / 0.4 becomes its square root, 0.707.
  settings.temperature = 2;
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1, 2, 3});
  // Where top_p removed the first of equals, the others still are the measure.
  settings.top_p = 0.3;
  CHECK(support(settings, {0.4, 0.4, 0.2}) == std::set<int64_t>{1});
  settings.top_p = 1;
  settings.min_p = 1;
  CHECK(support(settings, {0.1, 0.4, 0.2, 0.3}) == std::set<int64_t>{1});
}

TEST_CASE("draws follow the probabilities") {
  const std::vector<double> probabilities{0.1, 0.4, 0.2, 0.3};
  const auto found = draws(sampling(), logits_of(probabilities), 20000);
  // Five standard deviations of a share over 20,000 draws are at most 5 * sqrt(0.25 / 20000) = 0.018.
  for (const auto& [id, count] : found) CHECK(std::abs(count / 20000.0 - probabilities[static_cast<size_t>(id)]) < 0.018);
  CHECK(found.size() == 4);
}

TEST_CASE("a stream of random numbers depends on seed and prompt alone") {
  auto sequence = [](uint64_t seed, uint64_t stream) {
    RandomStream random(seed, stream);
    return std::vector<uint64_t>{random.next(), random.next(), random.next()};
  };
  CHECK(sequence(1, 0) == sequence(1, 0));
  CHECK(sequence(1, 0) != sequence(1, 1));
  CHECK(sequence(1, 0) != sequence(2, 0));
  CHECK(sequence(1, 0) != sequence(0, 1));
  RandomStream random(3, 4);
  for (int i = 0; i < 1000; ++i) {
    const double x = random.uniform();
    CHECK((x >= 0 && x < 1));
  }
}

TEST_CASE("NaN logits are an error that names the token") {
  std::vector<float> logits{1, std::numeric_limits<float>::quiet_NaN(), 2};
  CHECK_THROWS_WITH_AS(Sampler({}, {}, 0).choose(logits), doctest::Contains("NaN for token 1"), Error);
}
