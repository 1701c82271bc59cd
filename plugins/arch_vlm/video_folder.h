#pragma once
// A video is a folder of pictures, its frames; nothing decodes files of moving pictures.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tenon::vlm {

// In the folder, optional: {"fps": 2.0}, how many of its frames make a second.
inline constexpr const char* kVideoMetadata = "video_metadata.json";

struct VideoFolder {
  std::string path;
  std::vector<std::string> frames;  // paths in the order of their names, numbers in names by value; at least one
  std::optional<double> fps;
};

// Hidden files count for nothing. Error(Data), naming the folder: absent, a file, without pictures, files that are neither pictures by their ending
// nor kVideoMetadata.
VideoFolder read_video_folder(const std::string& path);

}  // namespace tenon::vlm
