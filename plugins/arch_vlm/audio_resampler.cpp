#include "audio_resampler.h"

#include <soxr.h>

#include <algorithm>

#include "tenon/error.h"

namespace tenon::vlm {

namespace {
void check(soxr_error_t error) {
  if (error) fail(ErrorCode::Internal, "libsoxr: ", error);
}
}  // namespace

struct Resampler::Engine {
  soxr_t soxr = nullptr;
  ~Engine() { soxr_delete(soxr); }
};

// To the nearest, as libsoxr does it.
int64_t resampled_length(int64_t frames, int64_t from, int64_t to) {
  if (from == to) return frames;
  return (2 * frames * to + from) / (2 * from);
}

Resampler::Resampler(int64_t from, int64_t to, std::span<float> out) : out_(out) {
  if (from == to) return;
  const soxr_io_spec_t samples = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
  const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
  const soxr_runtime_spec_t one_thread = soxr_runtime_spec(1);
  soxr_error_t error = nullptr;
  engine_ = std::make_unique<Engine>();
  engine_->soxr = soxr_create(static_cast<double>(from), static_cast<double>(to), 1, &error, &samples, &quality, &one_thread);
  check(error);
}

Resampler::~Resampler() = default;

void Resampler::push(std::span<const float> samples) {
  if (!engine_) {
    const size_t count = std::min(samples.size(), out_.size());
    std::copy_n(samples.begin(), count, out_.begin());
    out_ = out_.subspan(count);
    return;
  }
  while (!samples.empty()) {
    size_t taken = 0, made = 0;
    check(soxr_process(engine_->soxr, samples.data(), samples.size(), &taken, out_.data(), out_.size(), &made));
    samples = samples.subspan(taken), out_ = out_.subspan(made);
    if (taken == 0 && made == 0) return;
  }
}

void Resampler::finish() {
  size_t made = 1;
  while (engine_ && made > 0 && !out_.empty()) {
    check(soxr_process(engine_->soxr, nullptr, 0, nullptr, out_.data(), out_.size(), &made));
    out_ = out_.subspan(made);
  }
  std::fill(out_.begin(), out_.end(), 0.0f);
}

}  // namespace tenon::vlm
