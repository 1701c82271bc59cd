#include "checkpoint/accounting.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "checkpoint/misfit_report.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/source_reader.h"
#include "checkpoint/test_files.h"
#include "tenon/new_rows.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;
using namespace tenon::host::test;

namespace {

SlotSpec linear(const std::string& path, int64_t out, int64_t in) {
  SlotSpec slot;
  slot.path = path, slot.out = out, slot.in = in;
  slot.sources = {Source::rename(path + ".weight")};
  return slot;
}

// An embedding, two blocks with a fused-or-split pair and a norm, a head.
Blueprint small_blueprint(bool tied) {
  Blueprint blueprint;
  SlotSpec embed = linear("model.embed", 10, 4);
  embed.kind = SlotKind::Embedding;
  embed.role = SlotRole::InputEmbedding;
  blueprint.slots.push_back(embed);
  for (int i = 0; i < 2; ++i) {
    const std::string block = concat("model.layers.", i, ".");
    SlotSpec a = linear(block + "a", 6, 4), b = linear(block + "b", 2, 4);
    a.sources.push_back(Source{{{block + "ab.weight", 0, 6}}});
    b.sources.push_back(Source{{{block + "ab.weight", 6, 2}}});
    a.bias = true;
    a.bias_sources = {Source::rename(block + "a.bias")};
    blueprint.slots.push_back(a);
    blueprint.slots.push_back(b);
    DenseSpec norm;
    norm.path = block + "norm.weight", norm.shape = {4}, norm.sources = {Source::rename(norm.path)};
    blueprint.tensors.push_back(norm);
  }
  SlotSpec head = linear("lm_head", 10, 4);
  head.role = SlotRole::OutputHead;
  if (tied) head.tied_to = "model.embed", head.sources.clear();
  blueprint.slots.push_back(head);
  blueprint.ignorable = {R"(model\.layers\.\d+\.inv_freq)"};
  return blueprint;
}

std::map<std::string, at::Tensor> split_tensors() {
  std::map<std::string, at::Tensor> tensors = {{"model.embed.weight", at::arange(40, at::kFloat).view({10, 4})},
                                               {"lm_head.weight", at::ones({10, 4})}};
  for (int i = 0; i < 2; ++i) {
    const std::string block = concat("model.layers.", i, ".");
    tensors[block + "a.weight"] = at::ones({6, 4});
    tensors[block + "a.bias"] = at::ones({6});
    tensors[block + "b.weight"] = at::ones({2, 4});
    tensors[block + "norm.weight"] = at::ones({4});
  }
  return tensors;
}

std::shared_ptr<Checkpoint> checkpoint_of(const TempDir& folder, const std::map<std::string, at::Tensor>& tensors,
                                          const std::string& config = "{}") {
  std::vector<NamedTensor> list;
  for (const auto& [name, tensor] : tensors) list.push_back({name, tensor});
  put(folder / "config.json", config);
  write_safetensors(folder / "model.safetensors", list);
  return Checkpoint::open(folder.path());
}

std::string account_error(const Blueprint& blueprint, const std::map<std::string, at::Tensor>& tensors, const std::string& config = "{}") {
  TempDir folder;
  const auto checkpoint = checkpoint_of(folder, tensors, config);
  return error_of([&] { account(blueprint, *checkpoint); });
}

}  // namespace

TEST_CASE("every tensor finds its slot, ignorable ones aside") {
  TempDir folder;
  auto tensors = split_tensors();
  tensors["model.layers.0.inv_freq"] = at::ones({2});
  const auto checkpoint = checkpoint_of(folder, tensors);
  const WeightMap map = account(small_blueprint(false), *checkpoint);
  CHECK(map.slots.size() == 6);
  CHECK(map.tensors.size() == 2);
  CHECK(map.slots.at("model.layers.1.a").weight.pieces.at(0).tensor == "model.layers.1.a.weight");
  CHECK(map.slots.at("model.layers.1.a").bias.has_value());
  CHECK(map.stored_tied.empty());
}

TEST_CASE("the first layout that fits is taken, for each slot by itself") {
  TempDir folder;
  auto tensors = split_tensors();
  tensors.erase("model.layers.1.a.weight");
  tensors.erase("model.layers.1.b.weight");
  const at::Tensor fused = at::arange(32, at::kFloat).view({8, 4});
  tensors["model.layers.1.ab.weight"] = fused;
  const auto checkpoint = checkpoint_of(folder, tensors);
  const WeightMap map = account(small_blueprint(false), *checkpoint);
  const SourceReader b(*checkpoint, map.slots.at("model.layers.1.b").weight, {2, 4});
  CHECK(b.read(0, 2).equal(fused.narrow(0, 6, 2)));
  CHECK(b.read(1, 2).equal(fused.narrow(0, 7, 1)));
}

TEST_CASE("all that does not fit is in one error, grouped over layers") {
  auto tensors = split_tensors();
  for (int i = 0; i < 2; ++i) {
    tensors.erase(concat("model.layers.", i, ".b.weight"));
    tensors[concat("model.layers.", i, ".a.weight")] = at::ones({6, 5});
  }
  tensors.erase("lm_head.weight");
  tensors["model.layers.0.norm.weight"] = at::ones({4, 1});
  tensors["model.layers.1.norm.weight"] = at::ones({4}, at::kLong);
  tensors["extra.3.x"] = at::ones({1});
  tensors["extra.4.x"] = at::ones({1});
  tensors["extra.5.x"] = at::ones({1});
  const std::string error = account_error(small_blueprint(false), tensors);
  CAPTURE(error);
  CHECK(error.starts_with("5 "));
  for (const char* part : {"3 missing, 3 surplus, 4 misshapen", "'model.layers.*.b.weight' (2 times: 0, 1)", "'lm_head.weight'",
                           "'extra.*.x' (3 times: 3, 4, 5)", "'model.layers.*.a.weight' (2 times: 0, 1): found [6, 5], expected [6, 4]",
                           "'model.layers.0.norm.weight': found [4, 1], expected [4]",
                           "'model.layers.1.norm.weight': found Long [4], expected floating point", "different models"})
    CHECK_MESSAGE(contains(error, part), std::string(part));
}

TEST_CASE("a fused tensor must be used up") {
  auto tensors = split_tensors();
  for (const char* name : {"model.layers.0.a.weight", "model.layers.0.b.weight"}) tensors.erase(name);
  tensors["model.layers.0.ab.weight"] = at::ones({9, 4});
  // Each cut fits by its numbers; together they leave a row.
  const std::string error = account_error(small_blueprint(false), tensors);
  CHECK(contains(error, "'model.layers.0.ab.weight': found [9, 4], but no part of the model takes rows 8 to 9"));
  tensors["model.layers.0.ab.weight"] = at::ones({7, 4});
  CHECK(contains(account_error(small_blueprint(false), tensors), "'model.layers.0.ab.weight': found [7, 4], expected rows 6 to 8"));
}

TEST_CASE("a prefix that is too much or too little is named") {
  std::map<std::string, at::Tensor> bare, wrapped;
  for (const auto& [name, tensor] : split_tensors()) {
    bare[name.starts_with("model.") ? name.substr(6) : name] = tensor;
    wrapped["module." + name] = tensor;
  }
  CHECK(contains(account_error(small_blueprint(false), bare), "lack the prefix 'model.' (9 of 9 missing"));
  CHECK(contains(account_error(small_blueprint(false), wrapped), "carry the extra prefix 'module.' (10 of 10 missing"));
}

TEST_CASE("weights that are quantized already are recognised as the cause") {
  auto tensors = split_tensors();
  tensors["model.layers.0.a.weight"] = at::zeros({12, 1}, at::kByte);
  const std::string error = account_error(small_blueprint(false), tensors, R"({"quantization_config": {"quant_method": "someway"}})");
  CHECK(contains(error, "already quantized (quant_method 'someway')"));
}

TEST_CASE("packed names count as consumed, and absent ones as missing") {
  TempDir folder;
  auto tensors = split_tensors();
  tensors["model.layers.0.a.weight"] = at::zeros({12, 1}, at::kByte);
  tensors["model.layers.0.a.weight.absmax"] = at::zeros({1});
  const auto checkpoint = checkpoint_of(folder, tensors);
  auto names = [](bool with_absent) {
    return [with_absent](const SlotSpec& slot) -> std::vector<std::string> {
      if (slot.path != "model.layers.0.a") return {};
      std::vector<std::string> packed = {"model.layers.0.a.weight", "model.layers.0.a.weight.absmax"};
      if (with_absent) packed.push_back("model.layers.0.a.weight.state");
      return packed;
    };
  };
  const WeightMap map = account(small_blueprint(false), *checkpoint, names(false));
  CHECK(map.slots.at("model.layers.0.a").packed.size() == 2);
  CHECK(map.slots.at("model.layers.0.a").weight.pieces.empty());
  CHECK(map.slots.at("model.layers.0.a").bias.has_value());
  CHECK(contains(error_of([&] { account(small_blueprint(false), *checkpoint, names(true)); }), "'model.layers.0.a.weight.state'"));
}

TEST_CASE("of tied weights the file may hold either or both") {
  const Blueprint blueprint = small_blueprint(true);
  TempDir both, embedding, head, same;
  auto tensors = split_tensors();
  const auto with_both = checkpoint_of(both, tensors);
  WeightMap map = account(blueprint, *with_both);
  CHECK(map.slots.count("lm_head") == 0);
  CHECK(map.stored_tied == std::vector<std::string>{"lm_head"});
  const auto notes = differing_tied_weights(blueprint, *with_both, map);
  REQUIRE(notes.size() == 1);
  CHECK(contains(notes[0], "lm_head.weight is stored with values of its own"));

  auto equal = tensors;
  equal["lm_head.weight"] = equal["model.embed.weight"];
  const auto with_equal = checkpoint_of(same, equal);
  map = account(blueprint, *with_equal);
  CHECK(map.stored_tied.size() == 1);
  CHECK(differing_tied_weights(blueprint, *with_equal, map).empty());

  auto without_head = tensors;
  without_head.erase("lm_head.weight");
  CHECK(account(blueprint, *checkpoint_of(embedding, without_head)).stored_tied.empty());

  auto without_embedding = tensors;
  without_embedding.erase("model.embed.weight");
  map = account(blueprint, *checkpoint_of(head, without_embedding));
  CHECK(map.slots.at("model.embed").weight.pieces.at(0).tensor == "lm_head.weight");
}

TEST_CASE("rows that no file holds stand behind those of the file, whichever name a tied weight has there") {
  for (const bool is_stored_as_head : {false, true}) {
    TempDir folder;
    auto tensors = split_tensors();
    if (is_stored_as_head) tensors.erase("model.embed.weight");
    Blueprint blueprint = small_blueprint(/*tied=*/true);
    for (SlotSpec& slot : blueprint.slots)
      if (slot.role != SlotRole::Inner) slot.out = 13;
    blueprint.slots[0].sources = {Source{{{"model.embed.weight", 0, 10}, new_rows(3, NewRows::Mean)}}};
    const auto checkpoint = checkpoint_of(folder, tensors);
    const WeightMap map = account(blueprint, *checkpoint);
    const GrownSource grown = split_new_rows(map.slots.at("model.embed").weight);
    CHECK(grown.new_rows == 3);
    CHECK(SourceReader(*checkpoint, grown.stored, {10, 4})
              .read(9, 10)
              .equal(is_stored_as_head ? at::ones({1, 4}) : at::arange(36, 40, at::kFloat).view({1, 4})));
    // Of both that are stored, only the head's name has other values.
    CHECK(differing_tied_weights(blueprint, *checkpoint, map).size() == (is_stored_as_head ? 0 : 1));
    // A file with more rows than config.json says is no file of this model.
    tensors["model.embed.weight"] = at::ones({11, 4});
    CHECK(account_error(blueprint, tensors).find("no part of the model takes rows 10 to 11") != std::string::npos);
  }
}

TEST_CASE("a checkpoint without weights says so") {
  TempDir folder;
  put(folder / "config.json", "{}");
  CHECK(contains(error_of([&] { account(small_blueprint(false), *Checkpoint::open(folder.path())); }), "holds no weights"));
}

TEST_CASE("rows are read across pieces: without a copy inside one, joined across several, stacked") {
  TempDir folder;
  const at::Tensor a = at::arange(12, at::kFloat).view({4, 3}), b = at::arange(6, at::kFloat).view({2, 3}).add(100),
                   c = at::arange(12, at::kFloat).view({4, 3}).add(50);
  const auto checkpoint = checkpoint_of(folder, {{"a", a}, {"b", b}, {"c", c}, {"half", b.to(at::kHalf)}});
  const at::Tensor joined = at::cat({a, b.narrow(0, 1, 1), c.narrow(0, 2, 2)});
  const SourceReader reader(*checkpoint, Source{{{"a"}, {"b", 1, 1}, {"c", 2, -1}}}, {7, 3});
  for (int64_t first = 0; first <= 7; ++first)
    for (int64_t last = first; last <= 7; ++last) CHECK(reader.read(first, last).equal(joined.narrow(0, first, last - first)));
  CHECK(reader.read(1, 3).const_data_ptr() == checkpoint->view_rows("a", 1, 3).const_data_ptr());
  CHECK(reader.read(5, 7).const_data_ptr() == checkpoint->view_rows("c", 2, 4).const_data_ptr());
  reader.will_need(0, 7);
  reader.release(0, 7);
  CHECK(reader.read(0, 7).equal(joined));
  CHECK(error_of([&] { reader.read(0, 8); }).starts_with("70 "));

  const SourceReader stack(*checkpoint, Source{.pieces = {{"a"}, {"c"}}, .stack = true}, {2, 4, 3});
  CHECK(stack.read(0, 2).equal(at::stack({a, c})));
  CHECK(stack.read(1, 2).equal(c.unsqueeze(0)));
  CHECK(stack.read(1, 2).const_data_ptr() == checkpoint->view("c").const_data_ptr());

  // Two pieces to a member: an expert's gate and up.
  const Source pairs{.pieces = {{"a", 0, 3}, {"b"}, {"c", 1, 3}, {"b"}}, .stack = true};
  const at::Tensor members = at::stack({at::cat({a.narrow(0, 0, 3), b}), at::cat({c.narrow(0, 1, 3), b})});
  const SourceReader paired(*checkpoint, pairs, {2, 5, 3});
  CHECK(paired.read(0, 2).equal(members));
  CHECK(paired.read(1, 2).equal(members.narrow(0, 1, 1)));
  CHECK(contains(error_of([&] { SourceReader(*checkpoint, pairs, {2, 6, 3}); }), "is made of 5 rows"));
  CHECK(contains(error_of([&] { SourceReader(*checkpoint, pairs, {3, 5, 3}); }), "a stack of 4 tensors"));

  const SourceReader mixed(*checkpoint, Source{{{"a"}, {"half"}}}, {6, 3});
  CHECK((mixed.dtype() == at::kFloat));
  CHECK((mixed.read(4, 6).scalar_type() == at::kFloat));
  CHECK(mixed.read(4, 6).equal(b));
  CHECK(contains(error_of([&] { SourceReader(*checkpoint, Source{{{"a"}}}, {5, 3}); }), "make up 4 rows"));
  CHECK(contains(error_of([&] { SourceReader(*checkpoint, Source{{{"a"}}}, {4, 2}); }), "does not fit"));
  CHECK(contains(error_of([&] { SourceReader(*checkpoint, Source{{{"a", 2, 3}}}, {3, 3}); }), "does not fit"));
}

TEST_CASE("long lists are cut with their number") {
  std::vector<std::string> names;
  for (int i = 0; i < 30; ++i) names.push_back(concat("kind", i, ".weight"));
  CHECK(contains(grouped(names), "and 10 more groups"));
  CHECK(name_pattern("model.layers.12.experts.3.w1") == "model.layers.*.experts.*.w1");
  names.clear();
  for (int i = 0; i < 40; ++i) names.push_back(concat("l.", i, ".w"));
  CHECK(contains(grouped(names), "'l.*.w' (40 times: 0, 1, ..., 39)"));
}
