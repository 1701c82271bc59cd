#pragma once
// Files of the source tree that are part of the program. Made by tenon_embed_files (cmake/Embed.cmake).
#include <vector>

namespace tenon::host {

struct EmbeddedFile {
  const char *folder, *path, *text;  // "quantizer_native", "mine.cpp"; the folder is the first part of its place
};

const std::vector<EmbeddedFile>& template_files();     // sdk/templates: "common" belongs to all kinds
const std::vector<EmbeddedFile>& other_tools_files();  // plugins/*/other_tools.txt

}  // namespace tenon::host
