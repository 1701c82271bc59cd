#include "log_mel.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/hann_window.h>
#include <ATen/ops/log10.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stft.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "image_steps.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

constexpr double kTop = 8000;  // Hz; the class has no setting for it
constexpr double kFloor = 1e-10, kRange = 8;
constexpr int64_t kRate = 16000, kHop = 160, kFft = 400, kDefaultMels = 80;  // of the extractor's class

// Slaney's scale: linear to 1000 Hz, logarithmic above.
constexpr double kLinearTop = 1000, kMelsOfLinear = 15;
const double kStep = 27 / std::log(6.4);
double mel_of(double hertz) { return hertz < kLinearTop ? 3 * hertz / 200 : kMelsOfLinear + std::log(hertz / kLinearTop) * kStep; }
double hertz_of(double mel) { return mel < kMelsOfLinear ? 200 * mel / 3 : kLinearTop * std::exp((mel - kMelsOfLinear) / kStep); }

// Triangles of equal area, in float64 until they are done.
at::Tensor mel_filters(int64_t mels, int64_t rate, int64_t fft) {
  const int64_t bins = fft / 2 + 1;
  const double mel_step = mel_of(kTop) / static_cast<double>(mels + 1),
               bin_step = static_cast<double>(rate / 2) / static_cast<double>(bins - 1);
  std::vector<double> corners;
  for (int64_t i = 0; i < mels + 2; ++i) corners.push_back(hertz_of(mel_step * static_cast<double>(i)));
  const at::Tensor filters = at::empty({mels, bins}, at::kFloat);
  float* out = filters.mutable_data_ptr<float>();
  for (size_t m = 0; m < static_cast<size_t>(mels); ++m) {
    const double low = corners[m], middle = corners[m + 1], high = corners[m + 2];
    for (int64_t b = 0; b < bins; ++b) {
      const double hertz = bin_step * static_cast<double>(b);
      const double rise = (hertz - low) / (middle - low), fall = (high - hertz) / (high - middle);
      *out++ = static_cast<float>(std::max(0.0, std::min(rise, fall)) * (2 / (high - low)));
    }
  }
  return filters;
}

}  // namespace

LogMel::LogMel(int64_t mels, int64_t rate, int64_t hop, int64_t fft)
    : rate_(rate), hop_(hop), fft_(fft), window_(at::hann_window(fft, at::kFloat)), filters_(mel_filters(mels, rate, fft)) {}

at::Tensor LogMel::operator()(const at::Tensor& sound, int64_t windows, int64_t frames) const {
  const int64_t samples = sound.size(0), length = windows * frames * hop_, edge = fft_ / 2;
  if (length <= edge) fail(ErrorCode::Data, "n_fft is ", fft_, ", expected less than twice the ", length, " samples of a sound");
  // Frames reach beyond both ends, where the sound is mirrored.
  const at::Tensor padded = at::zeros({length + 2 * edge}, at::kFloat);
  padded.narrow(0, edge, samples).copy_(sound);
  padded.narrow(0, 0, edge).copy_(padded.narrow(0, edge + 1, edge).flip(0));
  padded.narrow(0, edge + length, edge).copy_(padded.narrow(0, length - 1, edge).flip(0));
  const at::Tensor features = at::empty({windows, filters_.size(0), frames}, at::kFloat);
  // Window by window, so that no spectrum of a long sound is held.
  for (int64_t w = 0; w < windows; ++w) {
    const at::Tensor part = padded.narrow(0, w * frames * hop_, (frames - 1) * hop_ + fft_);
    const at::Tensor spectrum = at::stft(part, fft_, hop_, fft_, window_, /*normalized=*/false, /*onesided=*/true, /*return_complex=*/true);
    features.select(0, w).copy_(at::matmul(filters_, at::abs(spectrum).square()).clamp_min_(kFloor).log10_());
  }
  return features.clamp_min_(features.max().item<float>() - kRange).add_(4).div_(4);
}

LogMel read_log_mel(const ProcessorFiles& files, int64_t mels) {
  const Value none = Value::table();
  nn::ConfigReader reader(files.preprocessor.is_null() ? none : files.preprocessor);
  const std::string type = reader.text("feature_extractor_type", "WhisperFeatureExtractor");
  if (type != "WhisperFeatureExtractor")
    reader.problem(concat("feature_extractor_type is '", type, "', expected WhisperFeatureExtractor: others are not served"));
  const int64_t size = reader.integer("feature_size", files.preprocessor.is_null() ? mels : kDefaultMels, 1, 1 << 12);
  if (size != mels)
    reader.problem(
        concat("feature_size is ", size, ", the encoder takes ", mels, " (audio_config.num_mel_bins): the files are of different models"));
  if (const int64_t rate = reader.integer("sampling_rate", kRate, 1, 1 << 20); rate != kRate)
    reader.problem(concat("sampling_rate is ", rate, ", expected ", kRate));
  const int64_t hop = reader.integer("hop_length", kHop, 1, 1 << 16), fft = reader.integer("n_fft", kFft, 2, 1 << 16);
  for (const char* key : {"dither", "padding_value"})
    if (reader.number(key, 0, -1e9, 1e9) != 0) reader.problem(concat(key, " is not 0: no more is served"));
  if (reader.text("padding_side", "right") != "right") reader.problem("padding_side is not \"right\": silence is put behind a sound alone");
  finish_steps(reader, files);
  return LogMel(mels, kRate, hop, fft);
}

}  // namespace tenon::vlm
