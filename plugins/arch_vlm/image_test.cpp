// Picture files: what the decoders give, EXIF's turns, and what hostile files are refused for. The pixels themselves are compared with the reference
// in tests/parity/test_vlm.py.
#include <ATen/ops/arange.h>
#include <doctest/doctest.h>
#include <png.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <vector>

#include <jpeglib.h>

#include "image_codec.h"
#include "image_file.h"
#include "image_steps.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "tenon/error.h"

namespace tenon::vlm {
namespace {

using testing::error_of;

constexpr int64_t kLimit = 1'000'000;

// 3 x 2 pixels whose value is 10 times their place, in 8 bits of grey.
std::string write_png(const std::filesystem::path& file, png_uint_32 format = PNG_FORMAT_GRAY) {
  const uint8_t pixels[6] = {0, 10, 20, 30, 40, 50};
  png_image image = {};
  image.version = PNG_IMAGE_VERSION, image.width = 3, image.height = 2, image.format = format;
  REQUIRE(png_image_write_to_file(&image, file.c_str(), 0, pixels, 0, nullptr));
  return file.string();
}

// The same brightness in a large JPEG with EXIF's orientation: left half dark, right half bright, a bright bar on top.
std::string write_jpeg(const std::filesystem::path& file, int orientation) {
  constexpr int kWidth = 48, kHeight = 32;
  std::FILE* out = std::fopen(file.c_str(), "wb");
  REQUIRE(out);
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  jpeg_stdio_dest(&info, out);
  info.image_width = kWidth, info.image_height = kHeight, info.input_components = 1, info.in_color_space = JCS_GRAYSCALE;
  jpeg_set_defaults(&info);
  jpeg_start_compress(&info, TRUE);
  const uint8_t exif[] = {
      'E', 'x', 'i', 'f', 0, 0, 'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, static_cast<uint8_t>(orientation), 0, 0, 0};
  jpeg_write_marker(&info, JPEG_APP0 + 1, exif, sizeof exif);
  for (int y = 0; y < kHeight; ++y) {
    std::vector<uint8_t> row(kWidth);
    for (int x = 0; x < kWidth; ++x) row[static_cast<size_t>(x)] = x >= kWidth / 2 ? 250 : 10;
    JSAMPROW rows = row.data();
    jpeg_write_scanlines(&info, &rows, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::fclose(out);
  return file.string();
}

std::string bytes_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
std::string write(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
  return file.string();
}

TEST_CASE("a grey PNG becomes three equal channels") {
  const testing::TempDir folder;
  const std::string file = write_png(folder.path() / "a.png");
  const ImageHeader header = read_image_header(file, kLimit);
  CHECK(header.format == ImageFormat::Png);
  CHECK(header.width == 3);
  CHECK(header.height == 2);
  const at::Tensor rgb = read_image(file, kLimit);
  const at::Tensor expected = at::arange(6, at::kByte).mul(10).view({1, 2, 3}).expand({3, 2, 3});
  CHECK(rgb.equal(expected));
}

TEST_CASE("EXIF's orientation turns the picture, its size too") {
  const testing::TempDir folder;
  // Where the bright half lies when shown: 0 left, 1 right, 2 top, 3 bottom.
  const int bright[] = {1, 0, 0, 1, 3, 3, 2, 2};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    CAPTURE(orientation);
    const std::string file = write_jpeg(folder.path() / "a.jpg", orientation);
    const ImageHeader header = read_image_header(file, kLimit);
    CHECK(header.orientation == orientation);
    CHECK(header.width == (orientation < 5 ? 48 : 32));
    const at::Tensor rgb = read_image(file, kLimit).to(at::kFloat);
    REQUIRE(rgb.size(2) == header.width);
    REQUIRE(rgb.size(1) == header.height);
    const int64_t dimension = bright[orientation - 1] < 2 ? 2 : 1, half = rgb.size(dimension) / 2;
    const double first = rgb.narrow(dimension, 0, half).mean().item<double>(),
                 second = rgb.narrow(dimension, half, half).mean().item<double>();
    CHECK((first > second) == (bright[orientation - 1] % 2 == 0));
    CHECK(std::abs(first - second) > 200);
  }
}

TEST_CASE("files that cannot be pictures say why") {
  const testing::TempDir folder;
  const std::string png = bytes_of(write_png(folder.path() / "a.png")), jpeg = bytes_of(write_jpeg(folder.path() / "a.jpg", 1));
  const auto refusal = [&](const std::string& bytes) {
    const std::string file = write(folder.path() / "b", bytes);
    return error_of([&] { read_image(file, kLimit); }, ErrorCode::Data);
  };
  CHECK(refusal("").find("it is empty") != std::string::npos);
  CHECK(refusal("GIF89a").find("no JPEG, PNG or WebP") != std::string::npos);
  CHECK(refusal(png.substr(0, png.size() - 20)).find("damaged PNG") != std::string::npos);
  CHECK(refusal(jpeg.substr(0, jpeg.size() / 2)).find("damaged JPEG") != std::string::npos);
  CHECK(refusal(std::string("RIFF\x10\0\0\0WEBPVP8 ", 16)).find("damaged WebP") != std::string::npos);
  CHECK(error_of([&] { read_image_header((folder.path() / "none.png").string(), kLimit); }, ErrorCode::Data).find("no such file") !=
        std::string::npos);
  CHECK(error_of([&] { read_image_header(folder.path().string(), kLimit); }, ErrorCode::Data).find("no regular file") != std::string::npos);
}

TEST_CASE("no byte of a damaged file is trusted: every cut and many changes end in a picture or an error") {
  const testing::TempDir folder;
  for (const std::string& good : {bytes_of(write_png(folder.path() / "a.png")), bytes_of(write_jpeg(folder.path() / "a.jpg", 6))})
    for (size_t i = 0; i < good.size(); i += 3)
      for (const bool cut : {true, false}) {
        std::string bytes = cut ? good.substr(0, i) : good;
        if (!cut) bytes[i] = static_cast<char>(bytes[i] ^ 0x5A);
        const std::string file = write(folder.path() / "b", bytes);
        try {
          const at::Tensor picture = read_image(file, kLimit);
          CHECK(picture.dim() == 3);
        } catch (const Error& error) {
          CHECK(error.code() == ErrorCode::Data);
        }
      }
}

TEST_CASE("a header that promises more than the limit is refused before anything is held") {
  const testing::TempDir folder;
  const std::string file = write_png(folder.path() / "a.png");
  CHECK(error_of([&] { read_image(file, 5); }, ErrorCode::Data).find("3 x 2 pixels, expected 5 or less in all (media.decode_limit)") !=
        std::string::npos);
  CHECK(read_image(file, 6).size(2) == 3);
}

TEST_CASE("EXIF that is no EXIF turns nothing") {
  const std::vector<uint8_t> good = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0};
  CHECK(exif_orientation(good) == 6);
  for (size_t count = 0; count < good.size(); ++count) CHECK(exif_orientation(Bytes(good.data(), count)) == 1);
  for (size_t i = 0; i < good.size(); ++i) {
    std::vector<uint8_t> changed = good;
    changed[i] ^= 0xFF;
    const int orientation = exif_orientation(changed);
    CHECK((orientation >= 1 && orientation <= 8));
  }
}

TEST_CASE("the shorter edge is met, the longer one cut off") {
  ImageSteps steps;
  steps.shortest_edge = 336;
  CHECK(resized(steps, {300, 451}) == Size{336, 505});  // 505.12
  CHECK(resized(steps, {451, 300}) == Size{505, 336});
  steps.shortest_edge.reset();
  steps.size = {28, 14};
  CHECK(resized(steps, {5, 9}) == Size{28, 14});
}

TEST_CASE("a crop lies in the middle, black where the picture ends") {
  const at::Tensor x = at::arange(12, at::kByte).view({1, 3, 4}).expand({3, 3, 4}).contiguous();
  CHECK(center_crop(x, {1, 2}).select(0, 0).equal(at::arange(5, 7, at::kByte).view({1, 2})));
  const at::Tensor wide = center_crop(x, {3, 7});
  CHECK(wide.select(2, 0).sum().item<int64_t>() == 0);
  CHECK(wide.narrow(2, 1, 4).equal(x));
  CHECK(wide.narrow(2, 5, 2).sum().item<int64_t>() == 0);
}

TEST_CASE("preprocessor_config.json: what is wrong is named") {
  ProcessorFiles files;
  files.folder = "checkpoint";
  files.preprocessor.set("image_std", Value::List{1, 0, 1});
  files.preprocessor.set("resample", 4);
  files.preprocessor.set("size", Value::table());
  const std::string text = error_of([&] { read_image_steps(files, 28, false); }, ErrorCode::Data);
  for (const char* part : {"checkpoint", "image_std holds 0", "resample is 4", "size is {}"}) CHECK(text.find(part) != std::string::npos);
  files.preprocessor = Value();
  const ImageSteps steps = read_image_steps(files, 28, false);
  CHECK(steps.shortest_edge == 28);
  CHECK(steps.crop == Size{28, 28});
  CHECK_FALSE(read_image_steps(files, 28, true).crops);
}

}  // namespace
}  // namespace tenon::vlm
