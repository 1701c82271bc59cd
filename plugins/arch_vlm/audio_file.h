#pragma once
// Sound files -> one channel at one rate. WAV, FLAC, MP3 and OGG (Vorbis, Opus) through libsndfile, other rates through libsoxr; a file's header is
// believed only within a limit, so that what a hostile one makes us hold is bounded.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace tenon::vlm {

struct AudioHeader {
  int64_t rate = 0, channels = 0;
  int64_t frames = 0;   // samples of one channel as stored
  int64_t samples = 0;  // and at the rate that was asked for
};

// Decodes nothing but MP3s that do not say how long they are. Error(Data), naming the file: absent, no sound of these formats, cut off, a rate or a
// number of channels that no recording has, more than `limit` samples of a channel, as stored or at `rate`.
AudioHeader read_audio_header(const std::string& file, int64_t rate, int64_t limit);

// -> [samples] float32: the mean of all channels, resampled as transformers does it. Error(Data) for a damaged file too.
at::Tensor read_audio(const std::string& file, int64_t rate, int64_t limit);

}  // namespace tenon::vlm
