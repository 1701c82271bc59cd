// Rotary frequencies from a config, in each of the spellings that files use.
#include <ATen/ops/empty.h>

#include <cmath>
#include <numbers>

#include "tenon/nn/rotary.h"

namespace tenon::nn {

namespace {
constexpr double kDefaultTheta = 10000;
constexpr double kMaxTheta = 1e15;

// 1 / theta^(2i / dim), in float32 steps as transformers takes them.
void fill_default(float* frequency, int64_t dim, double theta) {
  for (int64_t i = 0; i < dim / 2; ++i)
    frequency[i] = 1.0f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(dim));
}

// Llama 3.1: long wavelengths are stretched by `factor`, short ones stay, those between are blended.
struct Llama3 {
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4, original_length = 0;
  float operator()(float frequency) const {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength > original_length / low_freq_factor) return static_cast<float>(frequency / factor);
    if (wavelength < original_length / high_freq_factor) return frequency;
    const double smooth = (original_length / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
    return static_cast<float>((1 - smooth) * frequency / factor + smooth * frequency);
  }
};

double parameter(ConfigReader& reader, const Value& table, const std::string& name, const std::string& key, double min, double max) {
  const Value* value = table.find_set(key);
  if (value && value->is_number() && std::isfinite(value->as_float()) && value->as_float() >= min && value->as_float() <= max)
    return value->as_float();
  reader.problem(value ? concat(name, ".", key, " is ", ConfigReader::show(*value), ", expected a number, ", min, " to ", max)
                       : concat(name, ".", key, " is missing"));
  return min;
}

// What rope_scaling or rope_parameters says; transformers lets a non-empty rope_scaling win.
const Value* find_table(ConfigReader& reader, std::string& name) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Value* value = reader.config().find_set(key);
    if (!value) continue;
    if (!value->is_table()) {
      reader.problem(concat(key, " is ", ConfigReader::show(*value), ", expected a table or null"));
      continue;
    }
    if (value->as_table().empty()) continue;
    name = key;
    return value;
  }
  return nullptr;
}

std::string read_type(ConfigReader& reader, const Value& table, const std::string& name) {
  for (const char* key : {"rope_type", "type"})
    if (const Value* type = table.find(key)) {
      if (type->is_string()) return type->as_string();
      reader.problem(concat(name, ".", key, " is ", ConfigReader::show(*type), ", expected a text"));
      return "default";
    }
  for (const auto& [key, value] : table.as_table())
    if (value.is_table()) {
      reader.problem(concat(name, ".", key, " is a table: rotary parameters by kind of layer are not supported for this model_type"));
      break;
    }
  return "default";
}
}  // namespace

RotarySpec read_rotary(ConfigReader& reader, int64_t head_dim, int64_t max_positions) {
  static const Value none = Value::table();
  std::string name;
  const Value* found = find_table(reader, name);
  const Value& table = found ? *found : none;
  const std::string type = read_type(reader, table, name);

  double theta = kDefaultTheta;
  if (table.find("rope_theta"))
    theta = parameter(reader, table, name, "rope_theta", 1e-3, kMaxTheta);
  else
    theta = reader.number("rope_theta", kDefaultTheta, 1e-3, kMaxTheta);

  const Value* partial = table.find_set("partial_rotary_factor");
  if (!partial) partial = reader.config().find_set("partial_rotary_factor");
  if (partial && !(partial->is_number() && partial->as_float() == 1))
    reader.problem(concat("partial_rotary_factor is ", ConfigReader::show(*partial),
                          ": heads that turn only in part are not supported for this model_type"));

  if (head_dim % 2) {
    reader.problem(concat("head_dim is ", head_dim, ", expected an even number: rotary embeddings turn pairs"));
    return {};
  }
  RotarySpec spec{at::empty({head_dim / 2}, at::kFloat), 1};
  float* frequency = spec.inv_freq.mutable_data_ptr<float>();
  fill_default(frequency, head_dim, theta);

  if (type == "default") return spec;
  if (type == "linear") {
    const float factor = static_cast<float>(parameter(reader, table, name, "factor", 1e-3, 1e6));
    for (int64_t i = 0; i < head_dim / 2; ++i) frequency[i] /= factor;
  } else if (type == "llama3") {
    Llama3 scale;
    scale.factor = parameter(reader, table, name, "factor", 1e-3, 1e6);
    scale.low_freq_factor = parameter(reader, table, name, "low_freq_factor", 1e-3, 1e6);
    scale.high_freq_factor = parameter(reader, table, name, "high_freq_factor", 1e-3, 1e6);
    if (scale.high_freq_factor <= scale.low_freq_factor)
      reader.problem(concat(name, ".high_freq_factor is ", scale.high_freq_factor, ", expected more than low_freq_factor (",
                            scale.low_freq_factor, ")"));
    // A value beside the table wins over the one inside it, and the context length stands in for both, as in transformers.
    if (reader.config().find_set("original_max_position_embeddings"))
      scale.original_length = reader.number("original_max_position_embeddings", 1, 1, 1e15);
    else if (table.find("original_max_position_embeddings"))
      scale.original_length = parameter(reader, table, name, "original_max_position_embeddings", 1, 1e15);
    else
      scale.original_length = static_cast<double>(max_positions);
    for (int64_t i = 0; i < head_dim / 2; ++i) frequency[i] = scale(frequency[i]);
  } else if (type == "yarn" || type == "dynamic" || type == "longrope" || type == "proportional") {
    reader.problem(concat(name, " asks for the rope type '", type,
                          "', which this architecture does not compute: a patch must bring it ([[patch]] type = \"rope_scaling\")"));
  } else {
    reader.problem(concat(name, " asks for the rope type ", ConfigReader::show(Value(type)), ", expected default, linear or llama3"));
  }
  return spec;
}

}  // namespace tenon::nn
