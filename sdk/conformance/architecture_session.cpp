// Checks of architectures through the whole pipeline: a random model is planned, written, read again.
#include <dirent.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "quantizer_kit.h"
#include "tenon/json.h"
#include "tenon/session.h"
#include "toy.h"

namespace tenon::conformance {

namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "tenon-check-XXXXXX").string();
    if (!::mkdtemp(name.data())) fail(ErrorCode::Data, "cannot make a folder in ", fs::temp_directory_path().string());
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  void write(const fs::path& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  fs::path path_;
};

// Bytes of tensors in the safetensors files of a folder: all but their headers.
int64_t tensor_bytes(const fs::path& folder) {
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::ifstream in(entry.path(), std::ios::binary);
    uint64_t header = 0;
    in.read(reinterpret_cast<char*>(&header), sizeof header);
    bytes += static_cast<int64_t>(entry.file_size() - header - sizeof header);
  }
  return bytes;
}

void check_files(Context& c) {
  const auto examples = c.examples();
  Value config = examples.empty() ? small_config(c.provided().name) : examples.front();
  config.set("model_type", c.provided().name);
  const Folder folder;
  folder.write("model/config.json", to_json(config));
  folder.write("random.toml", "[model]\npath = \"model\"\ninit = \"random\"\ndtype = \"float32\"\ndevice_map = \"cpu\"\n");
  folder.write("read.toml", "[model]\npath = \"written\"\ndtype = \"float32\"\ndevice_map = \"cpu\"\n");
  SessionOptions options{.on_log = [](int, std::string_view) {}};
  if (c.subject().file.is_absolute()) options.plugin_files = {c.subject().file};  // else it is linked in

  Session random(folder.path() / "random.toml", options);
  const int64_t planned = random.plan().at("totals").at("weights").as_int();
  const at::Tensor ids = random_ids(1, 8, config.int_or("vocab_size", 96), c.seed());
  const at::Tensor before = random.logits(ids);
  random.export_to(folder.path() / "written", "hf");
  const int64_t written = tensor_bytes(folder.path() / "written");
  expect(planned == written, "the plan says ", planned, " bytes of weights, the loaded model wrote ", written);
  Session again(folder.path() / "read.toml", options);
  const at::Tensor after = again.logits(ids);
  expect(same_bytes(after, before), "written to files and read again, the model answers otherwise, by ", relative_max(after, before));
}

}  // namespace

std::vector<Check> architecture_session_checks() {
  return {{"architecture.files", 1, "architecture.calls",
           "Bytes planned, bytes loaded and bytes written are the same weights, and what is written can be read.", check_files}};
}

}  // namespace tenon::conformance
