#pragma once
// Sounds for a voxtral: each becomes windows of half a minute, filled up with silence, and as many audio tokens as the encoder makes of them.
#include "log_mel.h"
#include "tenon/media.h"
#include "voxtral_config.h"

namespace tenon::vlm {

class VoxtralProcessor final : public Processor {
 public:
  // Error(Data) for files that do not fit the encoder, Error(Recipe) for settings of pictures.
  VoxtralProcessor(const VoxtralConfig& config, const ProcessorFiles& files);

  std::vector<std::string> kinds() const override { return {"audio"}; }
  int64_t placeholder(const std::string&) const override { return audio_token_; }
  std::vector<int64_t> tokens(const Medium& medium) const override;
  // input_features [windows, mels, frames] float32, of all sounds one behind the other.
  std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const override;

 private:
  int64_t windows(int64_t samples) const;

  int64_t audio_token_, tokens_per_window_, frames_, limit_;
  LogMel log_mel_;
};

}  // namespace tenon::vlm
