#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tenon/error.h"

namespace tenon::host {

namespace {
constexpr float kRemoved = -std::numeric_limits<float>::infinity();

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// The first of the largest.
int64_t best(std::span<const float> logits) {
  size_t at = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]))
      fail(ErrorCode::Internal, "the model gave NaN for token ", i, ": its weights or its number type do not work");
    if (logits[i] > logits[at]) at = i;
  }
  if (logits.empty() || logits[at] == kRemoved) fail(ErrorCode::Internal, "no token is left to choose from");
  return static_cast<int64_t>(at);
}
}  // namespace

RandomStream::RandomStream(uint64_t seed, uint64_t stream) : state_(mix(seed + 0x9e3779b97f4a7c15ull) ^ mix(~stream)) {}

uint64_t RandomStream::next() { return mix(state_ += 0x9e3779b97f4a7c15ull); }

double RandomStream::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

Sampler::Sampler(const GenerateSection& settings, std::span<const int64_t> prompt, uint64_t stream)
    : settings_(settings),
      is_greedy_(!settings.do_sample || settings.temperature == 0),
      random_(static_cast<uint64_t>(settings.seed), stream) {
  if (settings_.repetition_penalty != 1.0)
    for (int64_t id : prompt) remember(id);
}

int64_t Sampler::choose(std::span<float> logits, std::span<const int64_t> banned) {
  if (settings_.repetition_penalty != 1.0) penalize(logits);
  for (int64_t id : banned)
    if (id >= 0 && id < static_cast<int64_t>(logits.size())) logits[static_cast<size_t>(id)] = kRemoved;
  int64_t chosen = best(logits);
  if (!is_greedy_) {
    if (settings_.temperature != 1.0)
      for (float& x : logits) x /= static_cast<float>(settings_.temperature);
    if (settings_.top_k > 0 && settings_.top_k < static_cast<int64_t>(logits.size())) keep_top_k(logits);
    if (settings_.top_p < 1.0) keep_top_p(logits);
    if (settings_.min_p > 0.0) {
      // p < min_p * p_best, said in logits: no softmax is needed. The best may be another one of equals by now.
      const float top = *std::max_element(logits.begin(), logits.end());
      const double floor = top + std::log(settings_.min_p);
      for (float& x : logits)
        if (x < floor && x != top) x = kRemoved;
    }
    chosen = draw(logits);
  }
  if (settings_.repetition_penalty != 1.0) remember(chosen);
  return chosen;
}

void Sampler::remember(int64_t id) {
  if (id < 0) return;
  const auto index = static_cast<size_t>(id);
  if (index >= has_seen_.size()) has_seen_.resize(index + 1);
  if (!has_seen_[index]) seen_.push_back(id);
  has_seen_[index] = true;
}

void Sampler::penalize(std::span<float> logits) const {
  const auto penalty = static_cast<float>(settings_.repetition_penalty);
  for (int64_t id : seen_) {
    // A prompt may hold ids that an output head of fewer rows does not have.
    if (id >= static_cast<int64_t>(logits.size())) continue;
    float& x = logits[static_cast<size_t>(id)];
    x = x < 0 ? x * penalty : x / penalty;
  }
}

// Ties with the last kept one stay, as in transformers.
void Sampler::keep_top_k(std::span<float> logits) {
  values_.assign(logits.begin(), logits.end());
  const auto last = values_.begin() + (settings_.top_k - 1);
  std::nth_element(values_.begin(), last, values_.end(), std::greater<>());
  const float floor = *last;
  for (float& x : logits)
    if (x < floor) x = kRemoved;
}

// Keeps the most probable tokens until their mass reaches top_p, the one that reaches it included; at least one. A heap, because few are taken as a rule.
void Sampler::keep_top_p(std::span<float> logits) {
  order_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] != kRemoved) order_.push_back(static_cast<int64_t>(i));
  auto value = [&](int64_t id) { return logits[static_cast<size_t>(id)]; };
  // Of equals the later id ranks higher; transformers leaves that to its sort.
  auto ranks_lower = [&](int64_t a, int64_t b) { return value(a) != value(b) ? value(a) < value(b) : a < b; };
  std::make_heap(order_.begin(), order_.end(), ranks_lower);
  const double top = value(order_.front());
  double total = 0;
  for (int64_t id : order_) total += std::exp(value(id) - top);
  double above = 0;
  auto end = order_.end();
  while (end != order_.begin() && (end == order_.end() || above < settings_.top_p)) {
    std::pop_heap(order_.begin(), end, ranks_lower);
    --end;
    above += std::exp(value(*end) - top) / total;
  }
  for (auto it = order_.begin(); it != end; ++it) logits[static_cast<size_t>(*it)] = kRemoved;
}

// In order of ids: the draw belongs to the token whose share of the mass holds the random number.
int64_t Sampler::draw(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float x : logits) total += std::exp(x - top);
  double rest = random_.uniform() * total;
  int64_t last = -1;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double mass = std::exp(logits[i] - top);
    if (mass == 0) continue;
    last = static_cast<int64_t>(i);
    if (rest < mass) return last;
    rest -= mass;
  }
  return last;
}

}  // namespace tenon::host
