// Folders of frames: their order, what is refused, which frames are picked, and what becomes of them. Pixels are compared with the reference in
// tests/parity/test_vlm_video.py.
#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>
#include <png.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "qwen_processor.h"
#include "qwen_video.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "video_folder.h"

namespace tenon::vlm {
namespace {

using testing::contains;
using testing::error_of;
namespace fs = std::filesystem;
using Ints = std::vector<int64_t>;

// A grey picture of one brightness.
void write_frame(const fs::path& file, uint8_t brightness, png_uint_32 width = 4, png_uint_32 height = 4) {
  fs::create_directories(file.parent_path());
  const std::vector<uint8_t> pixels(width * height, brightness);
  png_image image = {};
  image.version = PNG_IMAGE_VERSION, image.width = width, image.height = height, image.format = PNG_FORMAT_GRAY;
  REQUIRE(png_image_write_to_file(&image, file.c_str(), 0, pixels.data(), 0, nullptr));
}

void write_text(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

std::vector<std::string> names(const VideoFolder& folder) {
  std::vector<std::string> all;
  for (const std::string& frame : folder.frames) all.push_back(fs::path(frame).filename().string());
  return all;
}

// Squares of 2 x 2 patches of 2 pixels, two frames a layer.
QwenVlConfig config(const QwenFamily& family = kQwen25Vl) {
  QwenVlConfig c;
  c.family = &family;
  c.vision.patch = 2, c.vision.temporal_patch = 2, c.vision.merge = 2;
  c.image_token = 7, c.video_token = 8;
  return c;
}

ProcessorFiles files(std::initializer_list<Value::Entry> extra = {}) {
  ProcessorFiles f;
  f.folder = "checkpoint", f.decode_limit = 1'000'000;
  Value table = Value::table();
  table.set("patch_size", 2), table.set("min_pixels", 16), table.set("max_pixels", 64), table.set("do_normalize", false);
  f.preprocessor = table;
  for (const auto& [key, value] : extra) table.set(key, value);
  f.processor.set("video_processor", table);
  return f;
}

TEST_CASE("frames come in the order of their names, numbers by value") {
  testing::TempDir dir;
  for (const char* name : {"f10.png", "f2.JPG", "f1.jpeg", "f02.png", "a.webp", "f1a.png", ".hidden", "video_metadata.json"})
    write_text(dir.path() / name, R"({"fps": 2.5})");
  const VideoFolder folder = read_video_folder(dir.path().string());
  CHECK(names(folder) == std::vector<std::string>{"a.webp", "f1.jpeg", "f1a.png", "f2.JPG", "f02.png", "f10.png"});
  CHECK(folder.fps == 2.5);
  write_text(dir.path() / "video_metadata.json", R"({"fps": 0})");
  const auto refusal = [&] { return error_of([&] { read_video_folder(dir.path().string()); }); };
  CHECK(contains(refusal(), "fps is 0, expected a number above 0"));
  write_text(dir.path() / "video_metadata.json", R"({"fps": 2, "total_num_frames": 8})");
  CHECK(contains(refusal(), "expected {\"fps\": NUMBER} and nothing else"));
}

TEST_CASE("what is no folder of pictures is refused, a file with the way to make one") {
  testing::TempDir dir;
  const auto refusal = [](const fs::path& path) { return error_of([&] { read_video_folder(path.string()); }); };
  CHECK(contains(refusal(dir.path() / "none"), "there is no such folder"));
  CHECK(contains(refusal(dir.path()), "no pictures in it"));
  write_text(dir.path() / "clip.mp4", "film");
  CHECK(contains(refusal(dir.path() / "clip.mp4"), "ffmpeg -i clip.mp4 -vf fps=2 frames/%05d.png"));
  CHECK(contains(refusal(dir.path()), "'clip.mp4' is no JPEG, PNG or WebP by its ending"));
}

TEST_CASE("frames are picked as the reference's sampling does") {
  const auto picked = [](std::initializer_list<Value::Entry> extra, int64_t frames, std::optional<double> fps = {}) {
    return QwenVideo(config(), files(extra)).pick(frames, fps);
  };
  CHECK(picked({}, 3) == Ints{0, 1, 2});
  CHECK(picked({{"fps", 2.0}}, 3) == Ints{0, 1, 2});
  // The half of 5 rounds to the even 2 pairs.
  CHECK(picked({{"do_sample_frames", true}, {"num_frames", 5}}, 9) == Ints{0, 2, 4, 6});
  // 10 frames at 4 a second last 2.5 s: 5 frames at 2 a second, 4 of them whole pairs.
  CHECK(picked({{"do_sample_frames", true}, {"fps", 2.0}}, 10, 4.0) == Ints{0, 2, 5, 7});
  CHECK(picked({{"do_sample_frames", true}, {"fps", 2.0}, {"max_frames", 3}}, 10, 4.0) == Ints{0, 5});
  CHECK(picked({{"do_sample_frames", true}, {"fps", 0.1}, {"min_frames", 6}}, 10, 4.0) == Ints{0, 1, 3, 5, 6, 8});
  const auto refusal = [&](std::initializer_list<Value::Entry> extra, int64_t frames) { return error_of([&] { picked(extra, frames); }); };
  CHECK(contains(refusal({{"do_sample_frames", true}, {"fps", 2.0}}, 9), "write {\"fps\": NUMBER} to video_metadata.json"));
  CHECK(contains(refusal({{"do_sample_frames", true}}, 9), "neither num_frames nor fps"));
  CHECK(contains(refusal({{"do_sample_frames", true}, {"num_frames", 12}}, 9), "picks 12 frames (do_sample_frames), and there are 9"));
  CHECK(contains(refusal({{"do_sample_frames", true}, {"num_frames", 2}, {"fps", 2.0}}, 9), "num_frames and fps are both set"));
}

TEST_CASE("a frame's area is capped by its share of the whole") {
  const QwenVideo free(config(), files({{"max_pixels", 6400}})),
      capped(config(), files({{"max_pixels", 6400}, {"cap_pixels_per_frame", true}, {"max_video_tokens", 100}}));
  const Size frame{80, 80};
  CHECK(free.target(frame, 4) == Size{80, 80});
  // 100 tokens of 16 pixels, a tenth less: 1440 * 2 / 4 pixels a frame.
  CHECK(capped.target(frame, 4) == Size{24, 24});
  CHECK(capped.target(frame, 1000) == Size{4, 4});
}

TEST_CASE("an odd number of frames is filled with the last one, and takes so many tokens") {
  testing::TempDir dir;
  for (int i = 0; i < 3; ++i) write_frame(dir.path() / "clip" / concat(i, ".png"), static_cast<uint8_t>(51 * i), 8, 4);
  write_frame(dir.path() / "one.png", 255);
  write_text(dir.path() / "clip" / "video_metadata.json", R"({"fps": 4})");
  const Medium clip{"video", (dir.path() / "clip").string()}, picture{"image", (dir.path() / "one.png").string()};
  const QwenProcessor processor(config(), files());
  CHECK(processor.tokens(clip) == Ints{8, 8, 8, 8});
  CHECK(processor.tokens(picture) == Ints{7});
  auto loaded = processor.load({clip, picture, clip});
  CHECK(loaded.at("video_grid_thw").equal(at::tensor(Ints{2, 2, 4, 2, 2, 4}, at::kLong).view({2, 3})));
  CHECK(loaded.at("image_grid_thw").equal(at::tensor(Ints{1, 2, 2}, at::kLong).view({1, 3})));
  CHECK(loaded.at("second_per_grid_ts").equal(at::tensor({0.5f, 0.5f})));
  const at::Tensor& pixels = loaded.at("pixel_values_videos");
  REQUIRE(pixels.sizes() == at::IntArrayRef({32, 24}));
  // Video, layer, patch, channel, frame, pixel.
  const at::Tensor frames = (pixels * 5).round().view({2, 2, 8, 3, 2, 4});
  CHECK(frames.select(0, 0).equal(frames.select(0, 1)));
  const float expected[2][2] = {{0, 1}, {2, 2}};
  for (int64_t layer = 0; layer < 2; ++layer)
    for (int64_t f = 0; f < 2; ++f) CHECK(frames.select(0, 0).select(0, layer).select(2, f).eq(expected[layer][f]).all().item<bool>());
  CHECK(QwenProcessor(config(kQwen2Vl), files()).load({clip}).count("second_per_grid_ts") == 0);
  CHECK(QwenProcessor(config(), files(), /*takes_videos=*/false).kinds() == std::vector<std::string>{"image"});
  write_frame(dir.path() / "clip" / "3.png", 0, 8, 8);
  CHECK(error_of([&] { processor.tokens(clip); }).find("frames differ in size") != std::string::npos);
}

TEST_CASE("without a rate of frames there are 24 a second, and the file of its own counts before the pictures'") {
  testing::TempDir dir;
  write_frame(dir.path() / "clip" / "a.png", 9);
  ProcessorFiles f = files();
  f.processor = Value();
  f.folder = dir.path().string();
  const std::string clip = (dir.path() / "clip").string();
  CHECK(QwenVideo(config(), f).shape(clip).seconds == 2.0 / 24);
  write_text(dir.path() / "video_preprocessor_config.json", R"({"patch_size": 3})");
  CHECK(error_of([&] { QwenVideo(config(), f); }).find("video_preprocessor_config.json: patch_size is 3, the tower's is 2") !=
        std::string::npos);
}

}  // namespace
}  // namespace tenon::vlm
