// PNG through libpng.
#include <png.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "image_codec.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

// Side chunks may be compressed a thousandfold; none that matters is large.
constexpr png_alloc_size_t kMaxChunk = 8 << 20;
constexpr unsigned kMaxChunks = 1000;
constexpr png_uint_32 kMaxEdge = 1 << 30;

struct Source {
  Bytes bytes;
  size_t at = 0;
  char text[256] = {};
};

void read_bytes(png_structp png, png_bytep target, png_size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (count > source->bytes.size() - source->at) png_error(png, "the file ends early");
  std::memcpy(target, source->bytes.data() + source->at, count);
  source->at += count;
}

[[noreturn]] void on_error(png_structp png, png_const_charp text) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  std::snprintf(source->text, sizeof source->text, "%s", text);
  png_longjmp(png, 1);
}
void on_warning(png_structp, png_const_charp) {}

struct PngDecoder {
  Source source;
  png_structp png = nullptr;
  png_infop info = nullptr;

  explicit PngDecoder(Bytes bytes) : source{bytes} {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning);
    info = png ? png_create_info_struct(png) : nullptr;
    if (!info) fail(ErrorCode::Device, "there is no memory for a PNG decoder");
  }
  ~PngDecoder() { png_destroy_read_struct(&png, &info, nullptr); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;
};

// No object with a destructor lives across the jump. false: see source.text.
bool begin(PngDecoder& d) {
  if (setjmp(png_jmpbuf(d.png))) return false;
  png_set_read_fn(d.png, &d.source, read_bytes);
  png_set_user_limits(d.png, kMaxEdge, kMaxEdge);
  png_set_chunk_malloc_max(d.png, kMaxChunk);
  png_set_chunk_cache_max(d.png, kMaxChunks);
  png_read_info(d.png, d.info);
  return true;
}

bool decode(PngDecoder& d, int64_t width, png_bytepp rows) {
  if (setjmp(png_jmpbuf(d.png))) return false;
  png_set_expand(d.png);       // palettes to colours, few bits to 8
  png_set_strip_16(d.png);     // the upper 8 bits
  png_set_strip_alpha(d.png);  // the colours as stored
  png_set_gray_to_rgb(d.png);
  png_set_interlace_handling(d.png);
  png_read_update_info(d.png, d.info);
  if (png_get_rowbytes(d.png, d.info) != static_cast<size_t>(width) * 3)
    png_error(d.png, "its rows are of another width than its header says");
  png_read_image(d.png, rows);
  png_read_end(d.png, nullptr);
  return true;
}

RawHeader header_of(PngDecoder& d) {
  RawHeader header{png_get_image_width(d.png, d.info), png_get_image_height(d.png, d.info), 1};
#ifdef PNG_eXIf_SUPPORTED
  png_uint_32 count = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(d.png, d.info, &count, &exif)) header.orientation = exif_orientation(Bytes(exif, count));
#endif
  return header;
}

}  // namespace

RawHeader png_header(Bytes bytes) {
  PngDecoder d(bytes);
  if (!begin(d)) fail(ErrorCode::Data, "a damaged PNG: ", d.source.text);
  return header_of(d);
}

void decode_png(Bytes bytes, const RawHeader& header, uint8_t* rgb) {
  std::vector<png_bytep> rows(static_cast<size_t>(header.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = rgb + static_cast<int64_t>(y) * header.width * 3;
  PngDecoder d(bytes);
  if (!begin(d)) fail(ErrorCode::Data, "a damaged PNG: ", d.source.text);
  if (png_get_image_width(d.png, d.info) != header.width || png_get_image_height(d.png, d.info) != header.height)
    fail(ErrorCode::Data, "a PNG that changed while it was read");
  if (!decode(d, header.width, rows.data())) fail(ErrorCode::Data, "a damaged PNG: ", d.source.text);
}

}  // namespace tenon::vlm
