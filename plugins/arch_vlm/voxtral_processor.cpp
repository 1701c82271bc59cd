#include "voxtral_processor.h"

#include <ATen/ops/cat.h>

#include "audio_file.h"
#include "tenon/error.h"

namespace tenon::vlm {

VoxtralProcessor::VoxtralProcessor(const VoxtralConfig& config, const ProcessorFiles& files)
    : audio_token_(*config.audio_token),
      tokens_per_window_(config.tokens_per_window()),
      frames_(config.audio.frames()),
      limit_(files.decode_limit),
      log_mel_(read_log_mel(files, config.audio.mels)) {
  if (files.image_size || files.min_pixels || files.max_pixels)
    fail(ErrorCode::Recipe, "media.image_size, min_pixels and max_pixels are for models that see, this one hears: leave them out");
}

int64_t VoxtralProcessor::windows(int64_t samples) const {
  const int64_t window = frames_ * log_mel_.hop();
  return (samples + window - 1) / window;
}

std::vector<int64_t> VoxtralProcessor::tokens(const Medium& medium) const {
  const AudioHeader header = read_audio_header(medium.file, log_mel_.rate(), limit_);
  return std::vector<int64_t>(static_cast<size_t>(windows(header.samples) * tokens_per_window_), audio_token_);
}

std::map<std::string, at::Tensor> VoxtralProcessor::load(const std::vector<Medium>& media) const {
  std::vector<at::Tensor> features;
  for (const Medium& medium : media) {
    const at::Tensor sound = read_audio(medium.file, log_mel_.rate(), limit_);
    features.push_back(log_mel_(sound, windows(sound.size(0)), frames_));
  }
  return {{"input_features", features.size() == 1 ? features[0] : at::cat(features)}};
}

}  // namespace tenon::vlm
