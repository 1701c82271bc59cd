#pragma once
// Log-mel features of a sound, as WhisperFeatureExtractor of transformers makes them.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "tenon/media.h"

namespace tenon::vlm {

class LogMel {
 public:
  LogMel(int64_t mels, int64_t rate, int64_t hop, int64_t fft);

  int64_t rate() const { return rate_; }
  int64_t hop() const { return hop_; }
  // sound: [samples] float32, filled up with silence to `windows` of `frames` each -> [windows, mels, frames] float32. The loudest moment of the whole sound
  // decides what counts as silence.
  at::Tensor operator()(const at::Tensor& sound, int64_t windows, int64_t frames) const;

 private:
  int64_t rate_, hop_, fft_;
  at::Tensor window_, filters_;  // [fft], [mels, fft / 2 + 1]
};

// From the feature extractor's settings; `mels`: what the encoder takes. Error(Data) for settings that are not served or do not fit.
LogMel read_log_mel(const ProcessorFiles& files, int64_t mels);

}  // namespace tenon::vlm
