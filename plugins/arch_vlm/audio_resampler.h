#pragma once
// One channel from one rate to another, through libsoxr at its high quality, which is transformers' choice.
#include <cstdint>
#include <memory>
#include <span>

namespace tenon::vlm {

// Samples that `frames` at rate `from` become.
int64_t resampled_length(int64_t frames, int64_t from, int64_t to);

class Resampler {
 public:
  // `out` outlives it and has the length that all samples together become.
  Resampler(int64_t from, int64_t to, std::span<float> out);
  ~Resampler();
  void push(std::span<const float> samples);
  // What is still inside; the rest of `out` is silence.
  void finish();

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;  // null: the rates are equal
  std::span<float> out_;            // what is not written yet
};

}  // namespace tenon::vlm
