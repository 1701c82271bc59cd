#include "tenon/nn/config_reader.h"

#include <cmath>

#include "tenon/json.h"

namespace tenon::nn {

namespace {
constexpr size_t kShownBytes = 80;

template <class T>
std::string bounds(T min, T max) {
  return max == std::numeric_limits<T>::max() ? concat(min, " or more") : concat(min, " to ", max);
}
}  // namespace

ConfigReader::ConfigReader(const Value& config) : config_(&config) {
  if (config.is_table()) return;
  problem(concat("the file holds a ", config.type_name(), ", expected a table"));
  config_ = &empty_;
}

std::string ConfigReader::show(const Value& value) {
  std::string text;
  if (value.is_string())
    text = concat('"', value.as_string(), '"');
  else if (value.is_bool())
    text = value.as_bool() ? "true" : "false";
  else if (value.is_int())
    text = concat(value.as_int());
  else if (value.is_float())
    text = concat(value.as_float());
  else
    text = to_json(value);
  if (text.size() > kShownBytes) text = text.substr(0, kShownBytes) + "...";
  return text;
}

int64_t ConfigReader::integer(const std::string& key, int64_t fallback, int64_t min, int64_t max) {
  const Value* value = config_->find(key);
  if (!value) return fallback;
  const bool whole =
      value->is_int() || (value->is_float() && std::abs(value->as_float()) < 9e18 && std::trunc(value->as_float()) == value->as_float());
  if (whole && value->as_int() >= min && value->as_int() <= max) return value->as_int();
  problem(concat(key, " is ", show(*value), ", expected ", whole ? "" : "an integer, ", bounds(min, max)));
  return fallback;
}

std::optional<int64_t> ConfigReader::optional_integer(const std::string& key, int64_t min, int64_t max) {
  if (!config_->find_set(key)) return std::nullopt;
  return integer(key, min, min, max);
}

double ConfigReader::number(const std::string& key, double fallback, double min, double max) {
  const Value* value = config_->find(key);
  if (!value) return fallback;
  if (value->is_number() && std::isfinite(value->as_float()) && value->as_float() >= min && value->as_float() <= max)
    return value->as_float();
  problem(concat(key, " is ", show(*value), ", expected a number, ", bounds(min, max)));
  return fallback;
}

bool ConfigReader::flag(const std::string& key, bool fallback) {
  const Value* value = config_->find(key);
  if (!value) return fallback;
  if (value->is_bool()) return value->as_bool();
  problem(concat(key, " is ", show(*value), ", expected true or false"));
  return fallback;
}

std::string ConfigReader::text(const std::string& key, const std::string& fallback) {
  const Value* value = config_->find(key);
  if (!value) return fallback;
  if (value->is_string()) return value->as_string();
  problem(concat(key, " is ", show(*value), ", expected a text"));
  return fallback;
}

void ConfigReader::expect(const std::string& key, const Value& only, const std::string& why) {
  const Value* value = config_->find_set(key);
  if (!value) return;
  const bool same = value->is_number() && only.is_number() ? value->as_float() == only.as_float() : *value == only;
  if (!same) problem(concat(key, " is ", show(*value), ", expected ", show(only), ": ", why));
}

void ConfigReader::finish(const std::string& model_type) const {
  if (problems_.empty()) return;
  std::string text = concat("config.json (model_type '", model_type, "')");
  if (problems_.size() == 1) fail(ErrorCode::Data, text, ": ", problems_.front());
  text += concat(" has ", problems_.size(), " problems:");
  for (const auto& line : problems_) text += "\n  " + line;
  throw Error(ErrorCode::Data, text);
}

void refuse_dropout(ConfigReader& reader, const std::vector<const char*>& keys) {
  for (const char* key : keys) reader.expect(key, 0, "dropout inside a model is not supported, so set it to 0");
}

at::ScalarType config_dtype(ConfigReader& reader) {
  // The new spelling wins, as in transformers.
  const char* key = reader.config().find_set("dtype") ? "dtype" : "torch_dtype";
  if (!reader.config().find_set(key)) return at::kFloat;
  std::string name = reader.text(key, "float32");
  if (name.starts_with("torch.")) name = name.substr(6);
  if (name == "float32" || name == "float") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16" || name == "half") return at::kHalf;
  reader.problem(concat(key, " is ", ConfigReader::show(Value(name)), ", expected bfloat16, float16 or float32"));
  return at::kFloat;
}

}  // namespace tenon::nn
