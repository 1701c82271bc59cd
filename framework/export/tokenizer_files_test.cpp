#include "export/tokenizer_files.h"

#include <doctest/doctest.h>

#include "base/json.h"

using namespace tenon;
using namespace tenon::host;

TEST_CASE("added tokens stand behind the tokenizer's own, once, as its library writes them") {
  const Value before = parse_json(
      R"({"version": "1.0", "added_tokens": [{"id": 1, "content": "<s>", "special": true}], "model": {"vocab": {"<s>": 1, "a": 2}}})", "t");
  const std::vector<AddedToken> tokens = {{"<s>", 1, false}, {"a", 2, false}, {"<x>", 3, true}};
  const Value after = with_added_tokens(before, tokens);
  const Value::List& list = after.at("added_tokens").as_list();
  REQUIRE(list.size() == 3);
  CHECK(list[0] == before.at("added_tokens").as_list()[0]);
  CHECK(to_json(list[2]) ==
        R"({"id":3,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false})");
  CHECK((after.at("model") == before.at("model")));
  CHECK((with_added_tokens(after, tokens) == after));
  CHECK(with_added_tokens(Value::table(), tokens).at("added_tokens").as_list().size() == 3);
}
