#include "checkpoint/checkpoint.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <fcntl.h>
#include <unistd.h>

#include "checkpoint/folder.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/test_files.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;
using namespace tenon::host::test;

namespace {

std::string open_error(const std::filesystem::path& folder) {
  return error_of([&] { Checkpoint::open(folder); });
}

void put_shard(const std::filesystem::path& file, const std::vector<std::string>& names) {
  std::vector<NamedTensor> tensors;
  for (const auto& name : names) tensors.push_back({name, at::ones({2})});
  write_safetensors(file, tensors);
}

void put_index(const std::filesystem::path& folder, const std::string& weight_map) {
  put(folder / kIndexFile, "{\"metadata\":{},\"weight_map\":" + weight_map + "}");
}

// kB of a line in /proc/self/status.
int64_t status_kb(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size() + 1));
  return -1;
}

}  // namespace

TEST_CASE("a path that is no checkpoint folder is refused with the way to it") {
  TempDir folder;
  put(folder / "mistral-small/config.json", "{}");
  CHECK(contains(open_error(folder / "mistrall-small"), "did you mean 'mistral-small'?"));
  CHECK(contains(open_error(folder / "no/such/place"), "does not exist either"));
  put(folder / "mistral-small/model.bin", "x");
  CHECK(contains(open_error(folder / "mistral-small/model.bin"), "is a file, expected a Hugging Face folder; name its folder instead"));
  put(folder / "loose.gguf", "x");
  CHECK(contains(open_error(folder / "loose.gguf"), "is a file"));
  CHECK(contains(open_error(folder.path()), "did you mean its subfolder 'mistral-small'"));
  put(folder / "hub/snapshots/abc/config.json", "{}");
  CHECK(contains(open_error(folder / "hub"), "'snapshots/abc'"));
  put(folder / "adapter/adapter_config.json", "{}");
  CHECK(contains(open_error(folder / "adapter"), "is an adapter folder"));
  std::filesystem::create_directories(folder / "empty");
  CHECK(contains(open_error(folder / "empty"), "no config.json"));
  put(folder / "list/config.json", "[1]");
  CHECK(contains(open_error(folder / "list"), "expected a JSON object, found list"));
  put(folder / "broken/config.json", "{\"a\": }");
  CHECK(open_error(folder / "broken").starts_with("5 "));
  std::filesystem::create_directories(folder / "link");
  std::filesystem::create_symlink("nowhere", folder / "link/config.json");
  CHECK(contains(open_error(folder / "link"), "link to a file that does not exist"));
}

TEST_CASE("config.json alone is a checkpoint without weights") {
  TempDir folder;
  put(folder / "config.json", R"({"model_type": "x"})");
  const auto checkpoint = Checkpoint::open(folder.path());
  CHECK_FALSE(checkpoint->has_weights());
  CHECK(checkpoint->names().empty());
  CHECK(checkpoint->config().at("model_type").as_string() == "x");
  CHECK(checkpoint->generation_config().is_null());
  put(folder / "generation_config.json", R"({"eos_token_id": 2})");
  CHECK(checkpoint->generation_config().at("eos_token_id").as_int() == 2);
}

TEST_CASE("weights in another format are refused with the way to convert them") {
  struct Row {
    std::string file, expected;
  };
  for (const auto& [file, expected] :
       {Row{"pytorch_model.bin", "save_pretrained"}, Row{"pytorch_model-00001-of-00002.bin", "save_pretrained"},
        Row{"q4.gguf", "gguf_file='q4.gguf'"}, Row{"consolidated.00.pth", "safetensors; convert"},
        Row{"consolidated.safetensors", "rename it to model.safetensors"}, Row{"model-00001-of-00002.safetensors", "not their index"}}) {
    TempDir folder;
    put(folder / "config.json", "{}");
    put(folder / file, "x");
    const std::string error = open_error(folder.path());
    CAPTURE(error);
    CHECK(error.starts_with("5 "));
    CHECK(contains(error, file));
    CHECK(contains(error, expected));
    // A model made from its config alone does not care.
    CHECK_FALSE(Checkpoint::open(folder.path(), Weights::Ignore)->has_weights());
  }
  TempDir folder;
  put(folder / "config.json", "{}");
  put(folder / "adapter_model.safetensors", "x");
  put(folder / "training_args.bin", "x");
  CHECK_FALSE(Checkpoint::open(folder.path())->has_weights());
  std::filesystem::create_symlink("../blobs/absent", folder / "model.safetensors");
  CHECK(contains(open_error(folder.path()), "link to a file that does not exist"));
}

TEST_CASE("shards are read through their index, links included") {
  TempDir folder;
  put(folder / "model/config.json", "{}");
  put_shard(folder / "blob", {"b", "c"});
  write_safetensors(folder / "model/one.safetensors", {{"a", at::arange(12, at::kFloat).view({4, 3})}});
  std::filesystem::create_symlink("../blob", folder / "model/two.safetensors");
  put_index(folder / "model", R"({"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})");
  const auto checkpoint = Checkpoint::open(folder / "model");
  CHECK(checkpoint->has_weights());
  CHECK(checkpoint->names() == std::vector<std::string>{"a", "b", "c"});
  CHECK(checkpoint->files().size() == 2);
  CHECK(checkpoint->total_bytes() == 48 + 8 + 8);
  CHECK(checkpoint->spec("a").shape == std::vector<int64_t>{4, 3});
  CHECK(checkpoint->view_rows("a", 1, 3).equal(at::arange(3, 9, at::kFloat).view({2, 3})));
  CHECK(checkpoint->view("a").const_data_ptr() == checkpoint->view("a").const_data_ptr());
  CHECK(checkpoint->read("a").equal(checkpoint->view("a")));
  CHECK(checkpoint->read("a").const_data_ptr() != checkpoint->view("a").const_data_ptr());
  CHECK(contains(error_of([&] { checkpoint->spec("z"); }), "no tensor 'z'"));
}

TEST_CASE("an index that does not fit its shards is refused with all that is wrong") {
  TempDir folder;
  put(folder / "config.json", "{}");
  put_shard(folder / "one.safetensors", {"a", "both"});
  put_shard(folder / "two.safetensors", {"b", "both"});
  put(folder / "cut.safetensors", get(folder / "one.safetensors").substr(0, 150));
  put(folder / "../escaped_by_tenon_test", "x");
  put_index(
      folder.path(),
      R"({"a": "one.safetensors", "b": "one.safetensors", "both": "two.safetensors", "gone": "two.safetensors", "c": "absent.safetensors",
    "d": "cut.safetensors", "e": "../escaped_by_tenon_test", "f": "/etc/passwd", "g": "", "h": "..", "i": 3, "j": "sub/x.safetensors", "k": "a\\b", "l": "a\u0000b"})");
  const std::string error = open_error(folder.path());
  std::filesystem::remove(folder / "../escaped_by_tenon_test");
  CAPTURE(error);
  CHECK(error.starts_with("5 "));
  for (const char* part :
       {"13 problems", "'both' is in two shards, 'one.safetensors' and 'two.safetensors'",
        "'b' is not in 'one.safetensors' but in 'two.safetensors'", "'gone' is not in 'two.safetensors'", "'absent.safetensors' is absent",
        "truncated", "'../escaped_by_tenon_test' is not a plain file name", "'/etc/passwd' is not a plain file name", "'' is not a plain",
        "'..' is not a plain", "tensor 'i': expected a file name, found int", "'sub/x.safetensors' is not a plain", "'a\\b' is not a plain",
        "'a\\x00b' is not a plain"})
    CHECK_MESSAGE(contains(error, part), std::string(part));
  for (const char* text : {"[]", "{}", R"({"weight_map": 1})", R"({"weight_map": {}})"}) {
    put(folder / kIndexFile, text);
    CHECK(contains(open_error(folder.path()), "weight_map"));
  }
}

TEST_CASE("a tensor that the index does not name is there all the same, so that accounting sees it") {
  TempDir folder;
  put(folder / "config.json", "{}");
  put_shard(folder / "one.safetensors", {"a", "extra"});
  put_index(folder.path(), R"({"a": "one.safetensors"})");
  CHECK(Checkpoint::open(folder.path())->has("extra"));
}

TEST_CASE("reading a large file panel by panel keeps memory bounded") {
  TempDir folder;
  put(folder / "config.json", "{}");
  // 300 MB, sparse but for the header: zeros cost no disk and the pages count all the same.
  constexpr int64_t kRows = 75'000, kWidth = 1000;
  const std::string header = "{\"w\":{\"dtype\":\"F32\",\"shape\":[75000,1000],\"data_offsets\":[0,300000000]}}";
  put(folder / "model.safetensors", safetensors_bytes(header));
  std::filesystem::resize_file(folder / "model.safetensors", 8 + header.size() + 300'000'000);
  const auto checkpoint = Checkpoint::open(folder.path());
  std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM starts again from what is resident now
  const int64_t before = status_kb("VmHWM:");
  double sum = 0;
  for (int64_t first = 0; first < kRows; first += 2000) {
    const int64_t last = std::min(kRows, first + 2000);
    checkpoint->will_need_rows("w", first, last);
    sum += checkpoint->view_rows("w", first, last).sum().item<double>();
    checkpoint->release_rows("w", first, last);
  }
  CHECK(sum == 0);
  const int64_t grown_kb = status_kb("VmHWM:") - before;
  MESSAGE("VmHWM grew by " << grown_kb << " kB while " << kRows * kWidth * 4 / 1000 << " kB were read");
  CHECK(before > 0);
  CHECK(grown_kb < 100'000);
}

TEST_CASE("a model is written in shards whose index reads back") {
  TempDir folder;
  put(folder / "config.json", "{}");
  std::vector<TensorSpec> specs;
  for (int i = 0; i < 5; ++i) specs.push_back({concat("t", i), {10}, at::kFloat});
  specs.push_back({"big", {100}, at::kFloat});
  ModelWriter writer(folder.path(), specs, 100);
  for (int i = 0; i < 5; ++i) writer.append(concat("t", i), at::full({10}, static_cast<float>(i)));
  writer.append("big", at::full({60}, 1.0f));
  writer.append("big", at::full({40}, 2.0f));
  writer.commit();
  CHECK(writer.files() == std::vector<std::string>{"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                                                   "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                                                   "model.safetensors.index.json"});
  const auto checkpoint = Checkpoint::open(folder.path());
  CHECK(checkpoint->names().size() == 6);
  CHECK(checkpoint->total_bytes() == 600);
  CHECK(checkpoint->read("t3")[9].item<float>() == 3);
  CHECK(checkpoint->read("big").sum().item<float>() == 140);
  CHECK(contains(get(folder / kIndexFile), "\"total_size\":600"));
}
