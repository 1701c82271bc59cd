// JPEG through libjpeg-turbo.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

// After <cstdio>, whose FILE they use.
#include <jpeglib.h>

#include <jerror.h>

#include "image_codec.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

// A file of few bytes can ask for so many passes over the whole picture that it never ends.
constexpr int kMaxScans = 500;
constexpr unsigned kMaxMarker = 0xFFFF;

// libjpeg's ways back: an error jumps to `back`, and says why in `text`.
struct Failures {
  jpeg_error_mgr base;
  jmp_buf back;
  char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr info) {
  auto* failures = reinterpret_cast<Failures*>(info->err);
  info->err->format_message(info, failures->text);
  std::longjmp(failures->back, 1);
}

// A warning about the data is an error, for what is missing would be made up; oddities that change no pixel are let pass.
void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;
  const int code = info->err->msg_code;
  if (code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM || code == JWRN_JFIF_MAJOR || code == JWRN_BOGUS_PROGRESSION) return;
  leave(info);
}

void on_progress(j_common_ptr info) {
  auto* decoder = reinterpret_cast<j_decompress_ptr>(info);
  if (decoder->input_scan_number <= kMaxScans) return;
  auto* failures = reinterpret_cast<Failures*>(info->err);
  std::snprintf(failures->text, sizeof failures->text, "it has more than %d scans", kMaxScans);
  std::longjmp(failures->back, 1);
}

struct JpegDecoder {
  jpeg_decompress_struct info = {};
  Failures failures = {};
  jpeg_progress_mgr progress = {};

  JpegDecoder() {
    info.err = jpeg_std_error(&failures.base);
    failures.base.error_exit = leave;
    failures.base.emit_message = on_message;
    progress.progress_monitor = on_progress;
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&info); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
};

// No object with a destructor lives across the jump. false: see failures.text.
bool begin(JpegDecoder& decoder, Bytes bytes) {
  if (setjmp(decoder.failures.back)) return false;
  jpeg_create_decompress(&decoder.info);
  decoder.info.progress = &decoder.progress;
  jpeg_mem_src(&decoder.info, bytes.data(), bytes.size());
  jpeg_save_markers(&decoder.info, JPEG_APP0 + 1, kMaxMarker);
  jpeg_read_header(&decoder.info, TRUE);
  return true;
}

// 4 bytes a pixel of inks, stored inverted where Adobe's marker stands -> 3 of light.
void inks_to_rgb(const uint8_t* row, int64_t width, bool inverted, uint8_t* rgb) {
  for (int64_t x = 0; x < width; ++x, row += 4, rgb += 3)
    for (int c = 0; c < 3; ++c) {
      const int ink = inverted ? row[c] : 255 - row[c], black = inverted ? row[3] : 255 - row[3];
      rgb[c] = static_cast<uint8_t>((ink * black + 127) / 255);
    }
}

bool decode(JpegDecoder& decoder, const RawHeader& header, uint8_t* line, uint8_t* rgb) {
  if (setjmp(decoder.failures.back)) return false;
  jpeg_decompress_struct& info = decoder.info;
  const bool has_inks = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = has_inks ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    uint8_t* target = rgb + static_cast<int64_t>(info.output_scanline) * header.width * 3;
    JSAMPROW row = has_inks ? line : target;
    jpeg_read_scanlines(&info, &row, 1);
    if (has_inks) inks_to_rgb(line, header.width, info.saw_Adobe_marker, target);
  }
  jpeg_finish_decompress(&info);
  return true;
}

RawHeader header_of(const jpeg_decompress_struct& info) {
  RawHeader header{info.image_width, info.image_height, 1};
  constexpr char kExif[6] = {'E', 'x', 'i', 'f', 0, 0};
  for (const jpeg_marker_struct* marker = info.marker_list; marker; marker = marker->next)
    if (marker->marker == JPEG_APP0 + 1 && marker->data_length > sizeof kExif && std::memcmp(marker->data, kExif, sizeof kExif) == 0)
      return header.orientation = exif_orientation(Bytes(marker->data + sizeof kExif, marker->data_length - sizeof kExif)), header;
  return header;
}

}  // namespace

RawHeader jpeg_header(Bytes bytes) {
  JpegDecoder decoder;
  if (!begin(decoder, bytes)) fail(ErrorCode::Data, "a damaged JPEG: ", decoder.failures.text);
  return header_of(decoder.info);
}

void decode_jpeg(Bytes bytes, const RawHeader& header, uint8_t* rgb) {
  std::vector<uint8_t> line(static_cast<size_t>(header.width) * 4);
  JpegDecoder decoder;
  if (!begin(decoder, bytes)) fail(ErrorCode::Data, "a damaged JPEG: ", decoder.failures.text);
  if (decoder.info.image_width != header.width || decoder.info.image_height != header.height)
    fail(ErrorCode::Data, "a JPEG that changed while it was read");
  if (!decode(decoder, header, line.data(), rgb)) fail(ErrorCode::Data, "a damaged JPEG: ", decoder.failures.text);
}

}  // namespace tenon::vlm
