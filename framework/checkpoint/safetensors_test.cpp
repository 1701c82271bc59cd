#include "checkpoint/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>

#include "checkpoint/dtype.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/test_files.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;
using namespace tenon::host::test;

namespace {

SafetensorsHeader parse(const std::string& bytes) { return parse_safetensors_header(as_bytes(bytes), bytes.size(), "file"); }

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::string deep(int levels) { return std::string(static_cast<size_t>(levels), '[') + std::string(static_cast<size_t>(levels), ']'); }

}  // namespace

TEST_CASE("a damaged or hostile header is refused with what is wrong") {
  const std::string four(4, 'x'), eight(8, 'x');
  const std::string huge_length = std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + "{}";
  const std::string over_limit = std::string("\x01\xe1\xf5\x05\0\0\0\0", 8) + "{}";  // 100,000,001
  struct Row {
    std::string bytes, expected;
  };
  const Row rows[] = {
      {"", "0 bytes"},
      {"abc", "3 bytes"},
      {std::string(8, '\0'), "header is empty"},
      {huge_length, "over the limit"},
      {over_limit, "over the limit"},
      {std::string("\x10\0\0\0\0\0\0\0", 8) + "{}", "claims 16 bytes but only 2 follow"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"},
      {safetensors_bytes(" {}"), "does not start with '{'"},
      {safetensors_bytes("[1]"), "does not start with '{'"},
      {safetensors_bytes("{"), "file"},
      {safetensors_bytes("{}garbage"), "file"},
      {safetensors_bytes("{\"a\":1}"), "tensor 'a'"},
      {safetensors_bytes("{\"a\":{}}"), "'dtype' is missing"},
      {safetensors_bytes("{\"a\":{\"dtype\":3,\"shape\":[],\"data_offsets\":[0,0]}}"), "'dtype' must be a string"},
      {safetensors_bytes("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", four), "'data_offsets' is missing"},
      {safetensors_bytes("{" + tensor("a", "F32", "7", "[0,4]") + "}", four), "'shape' must be a list"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[0]") + "}", four), "list of two numbers"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[0,4,4]") + "}", four), "list of two numbers"},
      {safetensors_bytes("{" + tensor("a", "F32", "[-1]", "[0,4]") + "}", four), "whole numbers"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1.5]", "[0,4]") + "}", four), "whole numbers"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[-4,0]") + "}", four), "whole numbers"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[0,18446744073709551615]") + "}", four), "whole numbers"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[4,0]") + "}", four), "ends before that"},
      {safetensors_bytes("{" + tensor("a", "F32", "[2]", "[0,4]") + "}", four), "takes 8 bytes"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[4,8]") + "}", four), "truncated"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[9223372036854775800,9223372036854775804]") + "}", four), "truncated"},
      {safetensors_bytes("{" + tensor("a", "F32", "[4611686018427387904,4]", "[0,0]") + "}"), "too large"},
      {safetensors_bytes("{" + tensor("a", "U8", "[0,4611686018427387904,4]", "[0,0]") + "}"), "too large"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[0,4]") + "," + tensor("b", "F32", "[1]", "[0,4]") + "}", four), "overlaps"},
      {safetensors_bytes("{" + tensor("a", "U8", "[4]", "[0,4]") + "," + tensor("b", "U8", "[4]", "[2,6]") + "}", std::string(6, 'x')),
       "'a' and 'b' overlaps"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[4,8]") + "}", eight), "4 bytes before tensor 'a' belong to no tensor"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[0,4]") + "}", eight), "4 bytes at the end"},
      {safetensors_bytes("{}", four), "4 bytes at the end"},
      {safetensors_bytes("{" + tensor("a", "F32", "[1]", "[0,4]") + "," + tensor("a", "F32", "[1]", "[0,4]") + "}", four), "twice"},
      {safetensors_bytes("{" + tensor("a", "F7", "[1]", "[0,4]") + "," + tensor("b", "INT3", "[1]", "[0,4]") + "}", four),
       "'F7' of tensor 'a', 'INT3' of tensor 'b'"},
      {safetensors_bytes("{\"a\":" + deep(5000) + "}"), "deep"},
      {safetensors_bytes("{" +
                             tensor("a", "U8",
                                    "[" +
                                        std::string("1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
                                                    "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1") +
                                        "]",
                                    "[0,1]") +
                             "}",
                         "x"),
       "65 dimensions"},
      {safetensors_bytes("{\"__metadata__\":[]}"), "__metadata__ must be an object"},
      {safetensors_bytes("{\"__metadata__\":{\"k\":1}}"), "must hold strings"},
      {safetensors_bytes("{" + tensor("a\\u001b[2J", "F32", "[2]", "[0,4]") + "}", four), "'a\\x1b[2J'"},
  };
  for (const auto& row : rows) {
    const std::string error = error_of([&] { parse(row.bytes); });
    CAPTURE(row.bytes.substr(0, 200));
    CAPTURE(error);
    CHECK(error.starts_with("5 "));
    CHECK(contains(error, "file"));
    CHECK(contains(error, row.expected));
    CHECK(error.size() < 1000);
  }
}

TEST_CASE("every prefix of a good file is refused") {
  const std::string good = safetensors_bytes("{" + tensor("a", "F32", "[2]", "[0,8]") + "}", "12345678");
  CHECK(error_of([&] { parse(good); }).empty());
  for (size_t n = 0; n < good.size(); ++n) CHECK(error_of([&] { parse(good.substr(0, n)); }).starts_with("5 "));
}

TEST_CASE("a header may hold empty tensors, scalars, metadata and padding") {
  const auto header =
      parse(safetensors_bytes("{\"__metadata__\":{\"format\":\"pt\"}," + tensor("none", "F32", "[0,3]", "[0,0]") + "," +
                                  tensor("one", "I64", "[]", "[0,8]") + "," + tensor("end", "F16", "[5,0]", "[8,8]") + "}     ",
                              "12345678"));
  CHECK(header.metadata.at("format") == "pt");
  CHECK(header.tensors.size() == 3);
  CHECK(header.tensors.at("one").spec.shape.empty());
  CHECK(header.tensors.at("one").bytes == 8);
  CHECK(header.tensors.at("none").bytes == 0);
}

TEST_CASE("bytes as the Python package writes them are read bit for bit") {
  // safetensors 0.8.0: save({"w": tensor([[1.5, -2.0]], bfloat16), "n": tensor([7], int64)})
  const std::string file = safetensors_bytes(
      R"({"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"w":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}} )",
      std::string("\x07\0\0\0\0\0\0\0\xc0\x3f\x00\xc0", 12));
  TempDir folder;
  put(folder / "x.safetensors", file);
  const SafetensorsFile read(folder / "x.safetensors");
  CHECK(read.names() == std::vector<std::string>{"n", "w"});
  CHECK(read.read("n").item<int64_t>() == 7);
  const at::Tensor w = read.read("w");
  CHECK((w.scalar_type() == at::kBFloat16));
  CHECK(w.sizes() == at::IntArrayRef({1, 2}));
  CHECK(w[0][0].item<float>() == 1.5f);
  CHECK(w[0][1].item<float>() == -2.0f);
  CHECK(contains(error_of([&] { read.read("nix"); }), "no tensor 'nix'"));
}

TEST_CASE("what is written is what is read, for every dtype") {
  TempDir folder;
  const at::ScalarType dtypes[] = {at::kDouble, at::kFloat,         at::kHalf,        at::kBFloat16,    at::kLong,   at::kInt,
                                   at::kShort,  at::kChar,          at::kByte,        at::kBool,        at::kUInt16, at::kUInt32,
                                   at::kUInt64, at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kComplexFloat};
  std::vector<NamedTensor> tensors;
  for (auto dtype : dtypes) tensors.push_back({concat("t.", c10::toString(dtype)), at::rand({3, 5}).mul(100).to(dtype)});
  tensors.push_back({"scalar", at::full({}, 3.25)});
  tensors.push_back({"empty", at::zeros({0, 4})});
  tensors.push_back({"strided", at::arange(24, at::kFloat).view({4, 6}).t()});
  write_safetensors(folder / "all.safetensors", tensors);
  const SafetensorsFile file(folder / "all.safetensors");
  CHECK(file.header().metadata.at("format") == "pt");
  CHECK(file.names().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    CAPTURE(name);
    const at::Tensor back = file.read(name);
    CHECK((back.scalar_type() == tensor.scalar_type()));
    REQUIRE(back.sizes() == tensor.sizes());
    const at::Tensor same = tensor.contiguous();
    CHECK((same.nbytes() == 0 || std::memcmp(back.const_data_ptr(), same.const_data_ptr(), same.nbytes()) == 0));
    // Aligned for readers that view bytes as they are.
    CHECK(file.header().tensors.at(name).offset % tensor.element_size() == 0);
  }
  CHECK(get(folder / "all.safetensors").substr(8, 2) == "{\"");
}

TEST_CASE("views share the map, and an unaligned tensor is copied into place") {
  TempDir folder;
  const float values[3] = {1, 2, 3};
  std::string data("x", 1);
  data.append(reinterpret_cast<const char*>(values), 12);
  put(folder / "x.safetensors",
      safetensors_bytes("{" + tensor("byte", "U8", "[1]", "[0,1]") + "," + tensor("f", "F32", "[3]", "[1,13]") + "}   ", data));
  const SafetensorsFile file(folder / "x.safetensors");
  const at::Tensor f = file.view_rows("f", 1, 3);
  CHECK(reinterpret_cast<uintptr_t>(f.const_data_ptr()) % 4 == 0);
  CHECK(f[0].item<float>() == 2);
  CHECK(f[1].item<float>() == 3);
  CHECK(file.view_rows("byte", 0, 1).const_data_ptr() == file.view_rows("byte", 0, 1).const_data_ptr());
  CHECK(file.view_rows("f", 2, 2).numel() == 0);
  CHECK(error_of([&] { file.view_rows("f", 0, 4); }).starts_with("70 "));
  CHECK(error_of([&] { file.view_rows("f", 2, 1); }).starts_with("70 "));
  file.release_rows("f", 0, 3);
  CHECK(file.view_rows("f", 0, 1).item<float>() == 1);
}

TEST_CASE("a file under its name is complete, or it is not there") {
  TempDir folder;
  const std::vector<TensorSpec> specs = {{"a", {2, 2}, at::kFloat}, {"b", {1}, at::kHalf}};
  {
    SafetensorsWriter writer(folder / "x.safetensors", specs);
    writer.append("a", at::ones({1, 2}));
    CHECK_FALSE(std::filesystem::exists(folder / "x.safetensors"));
    CHECK(contains(error_of([&] { writer.commit(); }), "of tensor 'a' 8 of 16 bytes"));
    CHECK(contains(error_of([&] { writer.append("a", at::ones({2, 2})); }), "was announced as Float [2, 2]"));
    CHECK(contains(error_of([&] { writer.append("b", at::ones({1})); }), "was announced as Half"));
    CHECK(contains(error_of([&] { writer.append("c", at::ones({1})); }), "not announced"));
  }
  CHECK(std::filesystem::is_empty(folder.path()));
  SafetensorsWriter writer(folder / "x.safetensors", specs);
  writer.append("a", at::ones({1, 2}));
  writer.append("b", at::ones({1}, at::kHalf));
  writer.append("a", at::full({1, 2}, 2.0f));
  writer.commit();
  const SafetensorsFile file(folder / "x.safetensors");
  CHECK(file.read("a")[1][0].item<float>() == 2);
  CHECK(file.read("b")[0].item<float>() == 1);
  CHECK(contains(error_of([&] {
                   write_safetensors(folder / "y.safetensors", {{"a", at::ones({1}, at::kComplexDouble)}});
                 }),
                 "ComplexDouble"));
  CHECK(contains(error_of([&] { write_safetensors(folder / "y.safetensors", {{"a", at::ones({1})}, {"a", at::ones({1})}}); }), "twice"));
  CHECK(contains(error_of([&] { write_safetensors(folder / "no" / "y.safetensors", {{"a", at::ones({1})}}); }), "cannot be created"));
}

TEST_CASE("dtype names go both ways") {
  for (const char* name :
       {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "U16", "U32", "U64", "C64"})
    CHECK(safetensors_name(*dtype_from_safetensors(name)) == name);
  CHECK_FALSE(dtype_from_safetensors("F4").has_value());
  CHECK(config_name(at::kBFloat16) == "bfloat16");
}
