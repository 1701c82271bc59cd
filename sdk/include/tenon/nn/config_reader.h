#pragma once
// Reads a model's config.json for an architecture: absent keys take the family's defaults, every problem is kept, and finish() reports all of
// them in one error. Values are bounded, so that arithmetic on them cannot overflow.
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tenon/export.h"
#include "tenon/value.h"

namespace tenon::nn {

class TENON_API ConfigReader {
 public:
  // `config` outlives the reader. A value that is no table is one problem.
  explicit ConfigReader(const Value& config);

  const Value& config() const { return *config_; }
  // Absent: the fallback. Null, another type or out of [min, max]: a problem, and the fallback.
  int64_t integer(const std::string& key, int64_t fallback, int64_t min, int64_t max);
  double number(const std::string& key, double fallback, double min, double max);
  bool flag(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback);
  // Absent and null alike: nullopt.
  std::optional<int64_t> optional_integer(const std::string& key, int64_t min, int64_t max);
  // Absent, null and this value are fine, numbers by their size; another one is a problem, with the reason behind it.
  void expect(const std::string& key, const Value& only, const std::string& why);

  // "hidden_size is 0, expected 1 or more".
  void problem(std::string text) { problems_.push_back(std::move(text)); }
  bool ok() const { return problems_.empty(); }
  // Error(Data) with one line for each problem, headed by "config.json (model_type 'x')".
  void finish(const std::string& model_type) const;

  // A value as it reads in JSON, cut to a readable length; strings in quotes.
  static std::string show(const Value& value);

 private:
  const Value* config_;
  Value empty_ = Value::table();
  std::vector<std::string> problems_;
};

// Shares that transformers drops while it trains: nothing here drops any, so they are to be 0.
TENON_API void refuse_dropout(ConfigReader& reader, const std::vector<const char*>& keys);

// dtype or, in older files, torch_dtype: "bfloat16", "torch.float16", ...; float32 when neither is set.
TENON_API at::ScalarType config_dtype(ConfigReader& reader);

}  // namespace tenon::nn
