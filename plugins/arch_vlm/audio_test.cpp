// Sound files: what the decoders give, how channels and rates become one, and what hostile files are refused for. The features themselves are compared
// with the reference in tests/parity/test_voxtral.py.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/new_full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>
#include <sndfile.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <numbers>
#include <vector>

#include "audio_file.h"
#include "audio_resampler.h"
#include "log_mel.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace tenon::vlm {
namespace {

using testing::contains;
using testing::error_of;

constexpr int64_t kRate = 16000, kLimit = 1'000'000;
constexpr int kWav = SF_FORMAT_WAV | SF_FORMAT_PCM_16, kFloatWav = SF_FORMAT_WAV | SF_FORMAT_FLOAT,
              kFlac = SF_FORMAT_FLAC | SF_FORMAT_PCM_16, kOgg = SF_FORMAT_OGG | SF_FORMAT_VORBIS, kOpus = SF_FORMAT_OGG | SF_FORMAT_OPUS,
              kMp3 = SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III;

std::string write_sound(const std::filesystem::path& file, const std::vector<float>& samples, int channels, int rate, int format) {
  SF_INFO info = {};
  info.samplerate = rate, info.channels = channels, info.format = format;
  SNDFILE* out = sf_open(file.c_str(), SFM_WRITE, &info);
  REQUIRE(out);
  sf_write_float(out, samples.data(), static_cast<sf_count_t>(samples.size()));
  sf_close(out);
  return file.string();
}

// A tone that every coder keeps.
std::vector<float> tone(size_t count, double hertz, double rate) {
  std::vector<float> samples(count);
  for (size_t i = 0; i < count; ++i)
    samples[i] = static_cast<float>(0.5 * std::sin(2 * std::numbers::pi * hertz * static_cast<double>(i) / rate));
  return samples;
}

std::string bytes_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Writes `value` over the file's bytes from `at`, lowest first.
std::string changed(std::string bytes, size_t at, uint64_t value, size_t count) {
  for (size_t i = 0; i < count; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i) & 0xFF);
  return bytes;
}

TEST_CASE("samples come as they are stored, channels as their mean") {
  const testing::TempDir folder;
  const std::string mono = write_sound(folder / "a.wav", {0.5f, -0.25f, 0.125f}, 1, kRate, kWav);
  const AudioHeader header = read_audio_header(mono, kRate, kLimit);
  CHECK(header.rate == kRate);
  CHECK(header.frames == 3);
  CHECK(header.samples == 3);
  const at::Tensor samples = read_audio(mono, kRate, kLimit);
  const float* s = samples.const_data_ptr<float>();
  CHECK(s[0] == 0.5f);
  CHECK(s[1] == -0.25f);
  const at::Tensor three = read_audio(write_sound(folder / "b.wav", {0.5f, 0.25f, 0, -1, 0.5f, 0.5f}, 3, kRate, kFloatWav), kRate, kLimit);
  REQUIRE(three.size(0) == 2);
  CHECK(three.const_data_ptr<float>()[0] == 0.25f);
  CHECK(three.const_data_ptr<float>()[1] == 0.0f);
}

TEST_CASE("every format and rate gives the same tone, as long as the header said") {
  const testing::TempDir folder;
  struct Row {
    const char* name;
    int format, rate;
  };
  for (const Row& row : {Row{"a.flac", kFlac, 44100},
                         {"a.ogg", kOgg, 22050},
                         {"b.ogg", kOpus, 48000},
                         {"a.mp3", kMp3, 32000},
                         {"a.wav", kWav, 8000},
                         {"b.wav", kWav, 11025}}) {
    CAPTURE(row.name);
    const std::string file = write_sound(folder / row.name, tone(static_cast<size_t>(row.rate), 440, row.rate), 1, row.rate, row.format);
    const AudioHeader header = read_audio_header(file, kRate, kLimit);
    CHECK(header.rate == row.rate);
    CHECK(header.samples == kRate);
    const at::Tensor got = read_audio(file, kRate, kLimit);
    REQUIRE(got.size(0) == header.samples);
    const std::vector<float> expected = tone(static_cast<size_t>(kRate), 440, kRate);
    double worst = 0;
    // Coders begin and end softly.
    for (size_t i = 2000; i < 14000; ++i)
      worst = std::max(worst, std::abs(static_cast<double>(got.const_data_ptr<float>()[i]) - static_cast<double>(expected[i])));
    CHECK(worst < 0.02);
  }
}

TEST_CASE("the length at another rate is rounded to the nearest, ties up") {
  CHECK(resampled_length(5, 16000, 16000) == 5);
  CHECK(resampled_length(1, 32000, 16000) == 1);
  CHECK(resampled_length(1, 48000, 16000) == 0);
  CHECK(resampled_length(44100, 44100, 16000) == 16000);
  CHECK(resampled_length(3, 8000, 16000) == 6);
}

TEST_CASE("an MP3 without a length is as long as decoding it shows") {
  const testing::TempDir folder;
  const std::string good = bytes_of(write_sound(folder / "a.mp3", tone(32000, 300, kRate), 1, kRate, kMp3));
  const size_t tag = std::min(good.find("Xing"), good.find("Info"));
  REQUIRE(tag < 64);
  const std::string bare = good.substr(good.find("\xFF\xF3", 4));  // behind the frame that holds it
  const std::string file = folder.write("b.mp3", bare).string();
  const AudioHeader header = read_audio_header(file, kRate, kLimit);
  REQUIRE(header.frames > 1000);
  CHECK(read_audio(file, kRate, kLimit).size(0) == header.frames);
  CHECK(contains(error_of([&] { read_audio_header(file, kRate, header.frames - 1); }, ErrorCode::Data), "media.decode_limit"));
}

TEST_CASE("files that cannot be sounds say why, before or while they are read") {
  const testing::TempDir folder;
  const auto sound = tone(32000, 300, kRate);
  const std::string wav = bytes_of(write_sound(folder / "a.wav", sound, 1, kRate, kWav)),
                    flac = bytes_of(write_sound(folder / "a.flac", sound, 1, kRate, kFlac)),
                    ogg = bytes_of(write_sound(folder / "a.ogg", sound, 1, kRate, kOgg)),
                    mp3 = bytes_of(write_sound(folder / "a.mp3", sound, 1, kRate, kMp3));
  const auto refusal = [&](const std::string& bytes) {
    const std::string file = folder.write("b", bytes).string();
    return error_of([&] { read_audio(file, kRate, kLimit); }, ErrorCode::Data);
  };
  const auto half = [](const std::string& bytes) { return bytes.substr(0, bytes.size() / 2); };
  CHECK(contains(refusal(""), "it is empty"));
  CHECK(contains(refusal("GIF89a and more"), "no WAV, FLAC, MP3 or OGG"));
  CHECK(contains(refusal(half(wav)), "it is cut off: its header says 64000 bytes of sound, 31978 are there"));
  CHECK(contains(refusal(half(flac)), "it is cut off or damaged: its header says 32000 samples a channel"));
  CHECK(contains(refusal(half(ogg)), "it is damaged"));
  CHECK(contains(refusal(ogg.substr(0, ogg.size() - 9)), "it is cut off, or was written to a pipe"));
  CHECK(contains(refusal(half(mp3)), "it is cut off or damaged"));
  CHECK(contains(refusal(wav.substr(0, 40)), "a WAV without sound in it"));
  // Where a WAV has its channels, its rate and the length of its sound; a FLAC the number of its samples.
  CHECK(contains(refusal(changed(wav, 22, 0, 2)), "it is damaged"));
  CHECK(contains(refusal(changed(wav, 22, 1000, 2)), "1000 channels, expected 1 to 64"));
  CHECK(contains(refusal(changed(wav, 24, 0, 4)), "it is damaged"));
  CHECK(contains(refusal(changed(wav, 24, 1, 4)), "1 samples a second, expected 1000 to 768000"));
  CHECK(contains(refusal(changed(wav, 24, 0x7FFFFFFF, 4)), "2147483647 samples a second"));
  CHECK(contains(refusal(changed(wav, 40, 0x7FFFFF00, 4)), "it is cut off"));
  CHECK(contains(refusal(changed(wav, 40, 0xFFFFFFFF, 4)), "it is cut off"));
  CHECK(contains(refusal(changed(flac, 22, 0xFFFFFFFF, 4)), "media.decode_limit"));
  CHECK(contains(refusal(changed(flac, 22, 0, 4)), "it does not say how long it is"));
  CHECK(contains(error_of([&] { read_audio_header((folder / "none").string(), kRate, kLimit); }, ErrorCode::Data), "no such file"));
  CHECK(contains(error_of([&] { read_audio_header(folder.path().string(), kRate, kLimit); }, ErrorCode::Data), "no regular file"));
  const std::string nan = write_sound(folder / "nan.wav", {0, std::numeric_limits<float>::quiet_NaN()}, 1, kRate, kFloatWav);
  CHECK(contains(error_of([&] { read_audio(nan, kRate, kLimit); }, ErrorCode::Data), "a sample is no number"));
  const std::string blink = write_sound(folder / "blink.wav", {0.5f}, 1, 48000, kWav);
  CHECK(contains(error_of([&] { read_audio_header(blink, kRate, kLimit); }, ErrorCode::Data), "it is too short"));
}

TEST_CASE("a WAV that was written to a pipe is read to its end") {
  const testing::TempDir folder;
  const std::string wav = bytes_of(write_sound(folder / "a.wav", tone(1000, 300, kRate), 1, kRate, kWav));
  const std::string piped = folder.write("b.wav", changed(changed(wav, 4, 0xFFFFFFFF, 4), 40, 0xFFFFFFFF, 4)).string();
  CHECK(read_audio(piped, kRate, kLimit).equal(read_audio((folder / "a.wav").string(), kRate, kLimit)));
}

TEST_CASE("the limit counts what is stored and what it becomes") {
  const testing::TempDir folder;
  const std::string slow = write_sound(folder / "a.wav", tone(4000, 100, 4000), 1, 4000, kWav),
                    fast = write_sound(folder / "b.wav", tone(48000, 100, 48000), 1, 48000, kWav);
  CHECK(contains(error_of([&] { read_audio(slow, kRate, 15999); }, ErrorCode::Data),
                 "4000 samples a channel, which are 16000 at 16000 a second, expected 15999 or less (media.decode_limit)"));
  CHECK(contains(error_of([&] { read_audio(fast, kRate, 47999); }, ErrorCode::Data), "expected 47999 or less"));
  CHECK(read_audio(slow, kRate, 16000).size(0) == 16000);
  CHECK(read_audio(fast, kRate, 48000).size(0) == 16000);
}

TEST_CASE("no byte of a damaged file is trusted: every cut and many changes end in a sound or an error") {
  const testing::TempDir folder;
  const auto sound = tone(1200, 300, kRate);
  for (const int format : {kWav, kFlac, kOgg}) {
    const std::string good = bytes_of(write_sound(folder / "a", sound, 1, kRate, format));
    for (size_t i = 0; i < good.size(); i += i < 128 ? 1 : 97)
      for (const bool cut : {true, false}) {
        std::string bytes = cut ? good.substr(0, i) : good;
        if (!cut) bytes[i] = static_cast<char>(bytes[i] ^ 0x5A);
        const std::string file = folder.write("b", bytes).string();
        try {
          const at::Tensor samples = read_audio(file, kRate, kLimit);
          CHECK(samples.dim() == 1);
        } catch (const Error& error) {
          CHECK(error.code() == ErrorCode::Data);
        }
      }
  }
}

TEST_CASE("features: silence lies at the bottom, the loudest place decides where that is") {
  const LogMel log_mel(8, kRate, 160, 400);
  const at::Tensor silence = log_mel(at::zeros({100}), 1, 20);
  CHECK(silence.sizes() == at::IntArrayRef({1, 8, 20}));
  CHECK(silence.eq(-1.5).all().item<bool>());  // (log10 of the floor + 4) / 4
  const auto sound = tone(6400, 1000, kRate);
  const at::Tensor heard = at::zeros({6400});
  std::copy(sound.begin(), sound.end(), heard.mutable_data_ptr<float>());
  const at::Tensor features = log_mel(heard, 3, 20);  // the last window is silent
  const float top = features.max().item<float>();
  CHECK(at::allclose(features.select(0, 2).narrow(1, 2, 18),
                     features.new_full({8, 18}, top - 2)));            // behind the frames that reach into the sound
  CHECK(features.select(0, 0).amax(1).argmax().item<int64_t>() == 2);  // the mel that 1000 Hz falls into: 15 of 45.2, in steps of 5
}

TEST_CASE("features do not depend on where windows begin") {
  at::manual_seed(1);
  const LogMel log_mel(10, kRate, 16, 40);
  const at::Tensor sound = at::randn({16 * 24});
  const at::Tensor cut = log_mel(sound, 4, 6), whole = log_mel(sound, 1, 24);
  CHECK(at::allclose(at::cat({cut[0], cut[1], cut[2], cut[3]}, 1), whole[0], 1e-5, 1e-6));
}

TEST_CASE("the feature extractor's settings: what is wrong is named") {
  ProcessorFiles files;
  files.folder = "checkpoint";
  CHECK(read_log_mel(files, 128).hop() == 160);
  files.preprocessor.set("feature_size", 80);
  files.preprocessor.set("sampling_rate", 8000);
  files.preprocessor.set("dither", 0.1);
  files.preprocessor.set("feature_extractor_type", "ClapFeatureExtractor");
  const std::string text = error_of([&] { read_log_mel(files, 128); }, ErrorCode::Data);
  for (const char* part :
       {"checkpoint", "feature_size is 80, the encoder takes 128", "sampling_rate is 8000", "dither", "ClapFeatureExtractor"})
    CHECK(contains(text, part));
}

}  // namespace
}  // namespace tenon::vlm
