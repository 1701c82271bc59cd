#include "video_folder.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "tenon/error.h"
#include "tenon/json.h"

namespace tenon::vlm {

namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFrames = 1 << 16;
constexpr uintmax_t kMaxMetadataBytes = 1 << 16;
constexpr double kMaxFps = 1e6;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// frame_2 comes before frame_10, and where numbers are padded with zeros this is the order of bytes.
bool comes_before(const std::string& a, const std::string& b) {
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!is_digit(a[i]) || !is_digit(b[j])) {
      if (a[i] != b[j]) return static_cast<unsigned char>(a[i]) < static_cast<unsigned char>(b[j]);
      ++i, ++j;
      continue;
    }
    const auto number = [](const std::string& text, size_t& at) {
      while (at < text.size() && text[at] == '0') ++at;
      const size_t begin = at;
      while (at < text.size() && is_digit(text[at])) ++at;
      return std::string_view(text).substr(begin, at - begin);
    };
    const std::string_view x = number(a, i), y = number(b, j);
    if (x != y) return x.size() != y.size() ? x.size() < y.size() : x < y;
  }
  // Equal but for zeros, or one begins the other.
  return a.size() - i != b.size() - j ? a.size() - i < b.size() - j : a < b;
}

bool is_picture(const fs::path& file) {
  std::string ending = file.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
  return ending == ".jpg" || ending == ".jpeg" || ending == ".png" || ending == ".webp";
}

double read_fps(const fs::path& file) {
  std::error_code problem;
  const uintmax_t size = fs::file_size(file, problem);
  if (problem || size > kMaxMetadataBytes) fail(ErrorCode::Data, file.string(), ": expected a file like {\"fps\": 2.0}");
  std::string text(static_cast<size_t>(size), '\0');
  std::ifstream(file, std::ios::binary).read(text.data(), static_cast<std::streamsize>(size));
  const Value value = parse_json(text, file.string());
  const Value* fps = value.find("fps");
  if (!fps || value.as_table().size() != 1)
    fail(ErrorCode::Data, file.string(), ": expected {\"fps\": NUMBER} and nothing else, how many of the folder's frames make a second");
  if (!fps->is_number() || !(fps->as_float() > 0) || fps->as_float() > kMaxFps)
    fail(ErrorCode::Data, file.string(), ": fps is ", to_json(*fps), ", expected a number above 0, at most ", kMaxFps);
  return fps->as_float();
}

}  // namespace

VideoFolder read_video_folder(const std::string& path) {
  std::error_code problem;
  if (!fs::exists(path, problem)) fail(ErrorCode::Data, path, ": there is no such folder; a video is a folder of pictures, its frames");
  if (!fs::is_directory(path, problem))
    fail(ErrorCode::Data, path,
         ": a file, expected a folder of pictures: moving pictures are not decoded, so extract the frames (ffmpeg -i ",
         fs::path(path).filename().string(), " -vf fps=2 frames/%05d.png) and name the folder");
  VideoFolder folder{.path = path, .frames = {}, .fps = {}};
  std::vector<std::string> names;
  for (fs::directory_iterator entry(path, problem), end; !problem && entry != end; entry.increment(problem)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with('.')) continue;
    if (name == kVideoMetadata)
      folder.fps = read_fps(entry->path());
    else if (is_picture(entry->path()))
      names.push_back(name);
    else
      fail(ErrorCode::Data, path, ": '", name, "' is no JPEG, PNG or WebP by its ending, expected the frames of a video and nothing else (",
           kVideoMetadata, " apart)");
    if (names.size() > kMaxFrames) fail(ErrorCode::Data, path, ": more than ", kMaxFrames, " frames, expected a video");
  }
  if (problem) fail(ErrorCode::Data, path, ": ", problem.message());
  if (names.empty()) fail(ErrorCode::Data, path, ": no pictures in it, expected the frames of a video as JPEG, PNG or WebP");
  std::sort(names.begin(), names.end(), comes_before);
  for (const std::string& name : names) folder.frames.push_back((fs::path(path) / name).string());
  return folder;
}

}  // namespace tenon::vlm
