#include "audio_file.h"

#include <ATen/ops/empty.h>
#include <sndfile.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "audio_container.h"
#include "audio_resampler.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

// Recordings lie far inside these.
constexpr int64_t kMinRate = 1000, kMaxRate = 768000, kMaxChannels = 64;
// Far above any limit that makes sense, far below where products of it overflow.
constexpr int64_t kMaxFrames = int64_t{1} << 40;
constexpr int64_t kBlockFrames = 1 << 14;

struct Close {
  void operator()(SNDFILE* file) const { sf_close(file); }
};

// An open file whose header has been judged.
class Sound {
 public:
  Sound(const std::string& file, int64_t rate, int64_t limit) : limit_(std::min(limit, kMaxFrames)) {
    const Container container = look_at_container(file);
    SF_INFO info = {};
    file_.reset(sf_open(file.c_str(), SFM_READ, &info));
    if (!file_) fail(ErrorCode::Data, "it is damaged: ", sf_strerror(nullptr));
    if (info.samplerate < kMinRate || info.samplerate > kMaxRate)
      fail(ErrorCode::Data, "its header says ", info.samplerate, " samples a second, expected ", kMinRate, " to ", kMaxRate);
    if (info.channels < 1 || info.channels > kMaxChannels)
      fail(ErrorCode::Data, "its header says ", info.channels, " channels, expected 1 to ", kMaxChannels);
    header_.rate = info.samplerate, header_.channels = info.channels;
    block_.resize(static_cast<size_t>(kBlockFrames * header_.channels));
    if (info.frames == SF_COUNT_MAX) fail(ErrorCode::Data, "it does not say how long it is: it is cut off, or was written to a pipe");
    header_.frames = container.tells_length ? info.frames : count();
    if (header_.frames < 1) fail(ErrorCode::Data, "it holds no samples");
    check(header_.frames, header_.rate);
    header_.samples = resampled_length(header_.frames, header_.rate, rate);
    check(header_.samples, rate);
    if (header_.samples < 1) fail(ErrorCode::Data, "it is too short: its ", header_.frames, " samples are none at ", rate, " a second");
  }

  const AudioHeader& header() const { return header_; }

  // The mean of all channels, at most a block of them and `most`; 0 at the end.
  int64_t read(float* mono, int64_t most) {
    const int64_t channels = header_.channels;
    const int64_t frames = sf_readf_float(file_.get(), block_.data(), std::min(most, kBlockFrames));
    for (int64_t i = 0; i < frames; ++i) {
      float sum = 0;
      for (int64_t c = 0; c < channels; ++c) sum += block_[static_cast<size_t>(i * channels + c)];
      mono[i] = channels == 1 ? sum : sum / static_cast<float>(channels);
      if (!std::isfinite(mono[i])) fail(ErrorCode::Data, "it is damaged: a sample is no number");
    }
    return frames;
  }

 private:
  void check(int64_t samples, int64_t rate) const {
    if (samples > limit_)
      fail(ErrorCode::Data, "its header says ", header_.frames, " samples a channel, which are ", samples, " at ", rate,
           " a second, expected ", limit_, " or less (media.decode_limit)");
  }

  // By decoding, and then from the beginning again.
  int64_t count() {
    std::vector<float> mono(static_cast<size_t>(kBlockFrames));
    int64_t frames = 0;
    while (const int64_t more = frames > limit_ ? 0 : read(mono.data(), kBlockFrames)) frames += more;
    if (sf_seek(file_.get(), 0, SEEK_SET) != 0) fail(ErrorCode::Data, "it is damaged: ", sf_strerror(file_.get()));
    return frames;
  }

  int64_t limit_;
  std::unique_ptr<SNDFILE, Close> file_;
  AudioHeader header_;
  std::vector<float> block_;
};

}  // namespace

AudioHeader read_audio_header(const std::string& file, int64_t rate, int64_t limit) {
  return with_context(file, [&] { return Sound(file, rate, limit).header(); });
}

at::Tensor read_audio(const std::string& file, int64_t rate, int64_t limit) {
  return with_context(file, [&] {
    Sound sound(file, rate, limit);
    const AudioHeader header = sound.header();
    const at::Tensor samples = at::empty({header.samples}, at::kFloat);
    Resampler resampler(header.rate, rate, {samples.mutable_data_ptr<float>(), static_cast<size_t>(header.samples)});
    std::vector<float> mono(static_cast<size_t>(kBlockFrames));
    int64_t frames = 0;
    while (frames < header.frames) {
      const int64_t more = sound.read(mono.data(), header.frames - frames);
      if (more == 0)
        fail(ErrorCode::Data, "it is cut off or damaged: its header says ", header.frames, " samples a channel, ", frames, " are there");
      resampler.push({mono.data(), static_cast<size_t>(more)});
      frames += more;
    }
    resampler.finish();
    return samples;
  });
}

}  // namespace tenon::vlm
