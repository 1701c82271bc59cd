#include "data/dataset.h"

#include <doctest/doctest.h>

#include "data/batches.h"
#include "data/report.h"
#include "support/byte_codec.h"
#include "support/temp_dir.h"

using namespace tenon;
using namespace tenon::host;
using tenon::testing::ByteCodec;
using tenon::testing::TempDir;

namespace {

struct Fixture {
  TempDir dir;
  ByteCodec codec;
  DataSection data;
  std::string kind = "tokens";

  Fixture() {
    data.format = "prompt_completion";
    data.max_length = 16;
  }
  void add(const char* name, const std::string& text, double weight = 1) { data.train.push_back({dir.write(name, text), "", weight}); }
  Dataset build() const {
    DatasetRequest request;
    request.data = &data;
    request.text = &codec;
    request.sample_kind = kind;
    return build_dataset(request);
  }
  std::string error() const {
    try {
      build();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
};

std::string pair(const std::string& prompt, const std::string& completion) {
  return "{\"prompt\": \"" + prompt + "\", \"completion\": \"" + completion + "\"}\n";
}

std::vector<int64_t> values(const at::Tensor& t) { return {t.const_data_ptr<int64_t>(), t.const_data_ptr<int64_t>() + t.numel()}; }

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "samples keep the order of the file and know their lines") {
  std::string text;
  for (int i = 0; i < 200; ++i) text += pair(std::string(1, static_cast<char>('a' + i % 26)), std::to_string(i));
  add("a.jsonl", text);
  const Dataset set = build();
  REQUIRE(set.samples.size() == 200);
  CHECK(set.samples[137].origin == "a.jsonl:138");
  CHECK(codec.decode(set.samples[137].ids, true) == "h137");
  CHECK(set.counts.records == 200);
  CHECK(set.rows.size() == 200);
  CHECK(set.counts.trained_tokens == 10 * 2 + 90 * 3 + 100 * 4);  // digits and EOS
}

TEST_CASE_FIXTURE(Fixture, "overlong samples are dropped, truncated or refused, and counted") {
  add("a.jsonl", pair("a", "b") + pair("a", "0123456789012345") + pair("c", "d"));
  Dataset set = build();
  CHECK(set.samples.size() == 2);
  CHECK(set.counts.overlong == 1);
  CHECK(contains(set.warnings.at(0), "1 samples dropped, longer than 16 tokens (first a.jsonl:2)"));
  data.overlong = "truncate";
  set = build();
  REQUIRE(set.samples.size() == 3);
  CHECK(set.samples[1].ids.size() == 16);
  CHECK(contains(set.warnings.at(1), "1 of 3 samples train no end of turn"));
  data.overlong = "error";
  CHECK(contains(error(), "a.jsonl:2: 19 tokens, data.max_length is 16"));
  data.overlong = "drop";
  data.max_length = 3;
  CHECK(contains(error(), "all 3 samples are longer than data.max_length 3 (first a.jsonl:1)"));
}

TEST_CASE_FIXTURE(Fixture, "samples without trained tokens are dropped; more than half of them is an error") {
  data.format = "tokenized";
  const std::string good = "{\"input_ids\": [1, 2], \"labels\": [-100, 2]}\n", bad = "{\"input_ids\": [1, 2], \"labels\": [1, -100]}\n";
  add("a.jsonl", good + bad + good);
  const Dataset set = build();
  CHECK(set.samples.size() == 2);
  CHECK(set.counts.untrained == 1);
  CHECK(contains(set.warnings.at(0), "1 samples dropped, no trained token (first a.jsonl:2)"));
  data.train.clear();
  add("b.jsonl", good + bad + bad);
  CHECK(contains(error(), "2 of 3 samples have no trained token (first b.jsonl:2)"));
  data.train.clear();
  add("c.jsonl", bad);
  CHECK(contains(error(), "1 of 1 samples have no trained token (first c.jsonl:1)"));
}

TEST_CASE_FIXTURE(Fixture, "an end of turn that is never trained is an error") {
  data.format = "chat";
  data.max_length = 100;
  add("a.jsonl", R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})");
  CHECK(build().counts.without_end == 0);
  codec.end_outside = true;
  CHECK(contains(error(), "no sample trains an end of turn"));
}

TEST_CASE_FIXTURE(Fixture, "records that cannot be used are listed with their lines") {
  add("a.jsonl", pair("a", "b") + "{\"prompt\": \"a\"}\n{\"prompt\n" + pair("c", "d"));
  const std::string text = error();
  CHECK(contains(text, "2 of 4 records of"));
  CHECK(contains(text, "\n  a.jsonl:2: no 'completion' in the record"));
  CHECK(contains(text, "a.jsonl:3:"));
}

TEST_CASE_FIXTURE(Fixture, "weights repeat files and take shares of them") {
  std::string text;
  for (int i = 0; i < 10; ++i) text += pair("a", std::to_string(i));
  add("a.jsonl", text, 2);
  add("b.jsonl", text, 0.3);
  const Dataset set = build();
  CHECK(set.counts.samples == 23);
  CHECK(set.rows.size() == 23);
  CHECK(set.samples.size() == 20);
}

TEST_CASE_FIXTURE(Fixture, "objectives for pairs and pairs for other objectives are refused") {
  add("a.jsonl", pair("a", "b"));
  data.format = "preference";
  CHECK(contains(error(), "the objective needs labelled tokens"));
  kind = "pairs";
  CHECK(contains(error(), "not served yet"));
}

TEST_CASE_FIXTURE(Fixture, "packed rows carry segments, and no segment predicts its first token") {
  data.packing = true;
  data.max_length = 10;
  data.train_on_inputs = true;
  add("a.jsonl", pair("a", "b") + pair("c", "de") + pair("f", "g"));  // 4, 5 and 4 tokens
  const Dataset set = build();
  REQUIRE(set.rows.size() == 2);
  const std::vector<int64_t> rows{0, 1};
  const TrainBatch batch = make_batch(set, rows);
  CHECK(batch.input.ids.size(1) == 9);
  CHECK(values(batch.input.segments) == std::vector<int64_t>{1, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0});
  const int64_t bos = ByteCodec::kBos, eos = ByteCodec::kEos;
  CHECK(values(batch.input.ids) == std::vector<int64_t>{bos, 'c', 'd', 'e', eos, bos, 'a', 'b', eos, bos, 'f', 'g', eos, 0, 0, 0, 0, 0});
  CHECK(values(batch.labels) == std::vector<int64_t>{kIgnore, 'c', 'd', 'e', eos, kIgnore, 'a', 'b', eos, kIgnore, 'f', 'g', eos, kIgnore,
                                                     kIgnore, kIgnore, kIgnore, kIgnore});
  CHECK(token_count(set, rows) == 13);
  CHECK(origins(set, rows) == "a.jsonl:2, a.jsonl:1, a.jsonl:3");
}

TEST_CASE_FIXTURE(Fixture, "rows of one length need no segments") {
  add("a.jsonl", pair("a", "b") + pair("c", "d") + pair("e", "fg"));
  const Dataset set = build();
  CHECK_FALSE(make_batch(set, std::vector<int64_t>{0, 1}).input.segments.defined());
  CHECK(make_batch(set, std::vector<int64_t>{0, 2}).input.segments.defined());
}

TEST_CASE_FIXTURE(Fixture, "the report counts, warns and shows tokens with their labels") {
  add("a.jsonl", pair("a", "b\\n") + pair("a", "0123456789012345"));
  const Dataset set = build();
  const DataReport report = data_report(&set, nullptr, &codec, 1);
  CHECK(contains(report.text, "train: 1 samples, 5 tokens (60 % trained)"));
  CHECK(contains(report.text, "warning:"));
  CHECK(contains(report.text, "     2       98 * \"b\"\n"));
  CHECK(contains(report.text, "     3       10 * \"\\n\"\n"));
  CHECK(report.json.at("train").at("overlong").as_int() == 1);
  CHECK(report.json.at("train").at("lengths").at("max").as_int() == 5);
  CHECK(report.json.at("samples").as_list().at(0).at("labels") == Value(std::vector<int64_t>{-100, -100, 'b', '\n', ByteCodec::kEos}));
}
