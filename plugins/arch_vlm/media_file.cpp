#include "media_file.h"

#include <filesystem>
#include <fstream>

#include "tenon/error.h"

namespace tenon::vlm {

namespace fs = std::filesystem;

uintmax_t media_file_size(const std::string& file) {
  std::error_code problem;
  if (!fs::exists(file, problem)) fail(ErrorCode::Data, "there is no such file");
  if (!fs::is_regular_file(file, problem)) fail(ErrorCode::Data, "it is no regular file");
  const uintmax_t bytes = fs::file_size(file, problem);
  if (problem) fail(ErrorCode::Data, problem.message());
  return bytes;
}

std::vector<uint8_t> read_media_bytes(const std::string& file, uintmax_t count, uintmax_t begin) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  std::ifstream stream(file, std::ios::binary);
  stream.seekg(static_cast<std::streamoff>(begin));
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(count));
  if (!stream) fail(ErrorCode::Data, "it cannot be read");
  return bytes;
}

}  // namespace tenon::vlm
