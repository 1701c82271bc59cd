// Rotary frequencies from a config, in each of the spellings that files use.
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "tenon/nn/rotary.h"

namespace tenon::nn {

namespace {
constexpr double kMaxTheta = 1e15;

// 1 / theta^(2i / dim), in float32 steps as transformers takes them.
void fill_default(float* frequency, int64_t dim, double theta) {
  for (int64_t i = 0; i < dim / 2; ++i)
    frequency[i] = 1.0f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(dim));
}

bool is_number(const Value* value, double min, double max) {
  return value && value->is_number() && std::isfinite(value->as_float()) && value->as_float() >= min && value->as_float() <= max;
}

double parameter(ConfigReader& reader, const Value& table, const std::string& name, const std::string& key, double min, double max) {
  const Value* value = table.find_set(key);
  if (is_number(value, min, max)) return value->as_float();
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
constexpr double kMinFactor = 1e-3, kMaxFactor = 1e6, kMaxLength = 1e15;

// One table of rotary parameters on its way to frequencies.
struct Reading {
  ConfigReader& reader;
  const Value& table;
  const std::string& name;  // of the table
  const RotaryRules& rules;
  int64_t head_dim, max_positions;  // head_dim: of its part that turns
  double theta;
  float* frequency;  // [head_dim / 2], filled with the default ones

  double number(const char* key, double min, double max) const { return parameter(reader, table, name, key, min, max); }
  std::optional<double> optional(const char* key, double min, double max) const {
    if (!table.find_set(key)) return std::nullopt;
    return number(key, min, max);
  }
  double factor() const { return number("factor", kMinFactor, kMaxFactor); }
  // A value beside the table wins over the one inside it, and the context length stands in for both, as in transformers.
  double original_length() const {
    if (rules.original_positions)
      return reader.number("original_max_position_embeddings", static_cast<double>(rules.original_positions), 1, kMaxLength);
    if (reader.config().find_set("original_max_position_embeddings"))
      return reader.number("original_max_position_embeddings", 1, 1, kMaxLength);
    return optional("original_max_position_embeddings", 1, kMaxLength).value_or(static_cast<double>(max_positions));
  }
  // Null or absent: how much longer the context has become.
  double factor_or_growth(double original) const {
    return optional("factor", kMinFactor, kMaxFactor).value_or(static_cast<double>(max_positions) / original);
  }
  int64_t pairs() const { return head_dim / 2; }
};

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

void scale_llama3(const Reading& r) {
  Llama3 scale;
  scale.factor = r.factor();
  scale.low_freq_factor = r.number("low_freq_factor", kMinFactor, kMaxFactor);
  scale.high_freq_factor = r.number("high_freq_factor", kMinFactor, kMaxFactor);
  if (scale.high_freq_factor <= scale.low_freq_factor)
    r.reader.problem(concat(r.name, ".high_freq_factor is ", scale.high_freq_factor, ", expected more than low_freq_factor (",
                            scale.low_freq_factor, ")"));
  scale.original_length = r.original_length();
  for (int64_t i = 0; i < r.pairs(); ++i) r.frequency[i] = scale(r.frequency[i]);
}

// YaRN: low frequencies are stretched, high ones stay, a ramp between them; scores are sharpened.
void scale_yarn(const Reading& r, RotarySpec& spec) {
  const double original = r.original_length(), factor = r.factor_or_growth(original);
  const auto sharpening = [](double scale, double by) { return scale <= 1 ? 1.0 : 0.1 * by * std::log(scale) + 1; };
  const double mscale = r.optional("mscale", 0, kMaxFactor).value_or(0),
               mscale_all = r.optional("mscale_all_dim", 0, kMaxFactor).value_or(0);
  const auto given = r.optional("attention_factor", 0, kMaxFactor);
  spec.attention_scaling = given                            ? *given
                           : mscale != 0 && mscale_all != 0 ? sharpening(factor, mscale) / sharpening(factor, mscale_all)
                                                            : sharpening(factor, 1);
  double beta_fast = r.optional("beta_fast", 0, kMaxFactor).value_or(0), beta_slow = r.optional("beta_slow", 0, kMaxFactor).value_or(0);
  if (beta_fast == 0) beta_fast = 32;  // null, absent and 0 alike
  if (beta_slow == 0) beta_slow = 1;
  const Value* truncates = r.table.find_set("truncate");
  if (truncates && !truncates->is_bool())
    r.reader.problem(concat(r.name, ".truncate is ", ConfigReader::show(*truncates), ", expected true or false"));

  const auto dim = static_cast<double>(r.head_dim);
  const auto pair_of = [&](double turns) { return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(r.theta)); };
  double low = pair_of(beta_fast), high = pair_of(beta_slow);
  if (!truncates || !truncates->is_bool() || truncates->as_bool()) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dim - 1);
  if (low == high) high += 0.001;  // no division by zero
  for (int64_t i = 0; i < r.pairs(); ++i) {
    const float period = std::pow(static_cast<float>(r.theta), static_cast<float>(2 * i) / static_cast<float>(r.head_dim));
    const float ramp = std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float kept = 1.0f - ramp;
    r.frequency[i] = 1.0f / (static_cast<float>(factor) * period) * (1.0f - kept) + 1.0f / period * kept;
  }
}

// Dynamic NTK: beyond the context the base grows with the length.
void scale_dynamic(const Reading& r, RotarySpec& spec) {
  const double factor = r.factor();
  if (r.head_dim <= 2) return r.reader.problem(concat("head_dim is ", r.head_dim, ", expected 4 or more for the rope type 'dynamic'"));
  spec.at_length = [within = spec.inv_freq, factor, theta = r.theta, dim = r.head_dim, max_positions = r.max_positions](int64_t length) {
    if (length <= max_positions) return within;
    // float32 steps, as transformers takes them from a length that is a tensor.
    const float growth =
        static_cast<float>(factor) * static_cast<float>(length) / static_cast<float>(max_positions) - static_cast<float>(factor - 1);
    const float base =
        static_cast<float>(theta) * std::pow(growth, static_cast<float>(static_cast<double>(dim) / static_cast<double>(dim - 2)));
    at::Tensor inv_freq = at::empty({dim / 2}, at::kFloat);
    fill_default(inv_freq.mutable_data_ptr<float>(), dim, base);
    return inv_freq;
  };
}

std::vector<float> read_factors(const Reading& r, const char* key) {
  const Value* list = r.table.find_set(key);
  std::vector<float> factors;
  if (list && list->is_list())
    for (const Value& factor : list->as_list()) {
      if (!is_number(&factor, kMinFactor, kMaxFactor)) break;
      factors.push_back(static_cast<float>(factor.as_float()));
    }
  if (!list || !list->is_list() || factors.size() != list->as_list().size() || static_cast<int64_t>(factors.size()) != r.pairs())
    r.reader.problem(concat(r.name, ".", key, " is ", list ? "not" : "missing: expected", " a list of ", r.pairs(),
                            " numbers, one for each pair of a head"));
  factors.resize(static_cast<size_t>(r.pairs()), 1.0f);
  return factors;
}

// LongRoPE: a factor for each pair, one list within the original context, another beyond it.
void scale_longrope(const Reading& r, RotarySpec& spec) {
  const double original = r.original_length(), factor = r.factor_or_growth(original);
  const auto given = r.optional("attention_factor", 0, kMaxFactor);
  spec.attention_scaling = given ? *given : factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  const auto fill = [&](float* frequency, const std::vector<float>& factors) {
    for (int64_t i = 0; i < r.pairs(); ++i)
      frequency[i] = 1.0f / (factors[static_cast<size_t>(i)] *
                             std::pow(static_cast<float>(r.theta), static_cast<float>(2 * i) / static_cast<float>(r.head_dim)));
  };
  fill(r.frequency, read_factors(r, "short_factor"));
  const at::Tensor beyond = at::empty({r.pairs()}, at::kFloat);
  fill(beyond.mutable_data_ptr<float>(), read_factors(r, "long_factor"));
  spec.at_length = [within = spec.inv_freq, beyond, original](int64_t length) {
    return static_cast<double>(length) > original ? beyond : within;
  };
}

// Only the first pairs turn, the others stand still.
void scale_proportional(const Reading& r) {
  const double factor = r.optional("factor", kMinFactor, kMaxFactor).value_or(1),
               share = r.optional("partial_rotary_factor", 0, 1).value_or(1);
  const auto turning = static_cast<int64_t>(share * static_cast<double>(r.head_dim)) / 2;
  for (int64_t i = 0; i < r.pairs(); ++i) r.frequency[i] = i < turning ? r.frequency[i] / static_cast<float>(factor) : 0;
}
}  // namespace

at::Tensor RotarySpec::frequencies(const at::Tensor& positions) const {
  return (at_length ? at_length(positions.numel() ? positions.max().item<int64_t>() + 1 : 0) : inv_freq).to(positions.device());
}

RotarySpec read_rotary(ConfigReader& reader, int64_t head_dim, int64_t max_positions, const RotaryRules& rules) {
  static const Value none = Value::table();
  std::string name;
  const Value* found = find_table(reader, name);
  const Value& table = found ? *found : none;
  std::string type = read_type(reader, table, name);
  if (const auto renamed = rules.renamed_types.find(type); renamed != rules.renamed_types.end()) type = renamed->second;

  double theta = rules.theta;
  if (table.find("rope_theta"))
    theta = parameter(reader, table, name, "rope_theta", 1e-3, kMaxTheta);
  else
    theta = reader.number("rope_theta", theta, 1e-3, kMaxTheta);

  const Value* partial = table.find_set("partial_rotary_factor");
  if (!partial) partial = reader.config().find_set("partial_rotary_factor");
  if (partial && rules.partial) {
    if (!is_number(partial, 0, 1)) {
      reader.problem(concat("partial_rotary_factor is ", ConfigReader::show(*partial), ", expected a number, 0 to 1"));
      return {};
    }
    head_dim = static_cast<int64_t>(static_cast<double>(head_dim) * partial->as_float());
  } else if (type != "proportional" && partial && !(partial->is_number() && partial->as_float() == 1)) {
    reader.problem(concat("partial_rotary_factor is ", ConfigReader::show(*partial),
                          ": heads that turn only in part are not supported for this model_type"));
  }

  if (head_dim % 2 || head_dim <= 0) {
    reader.problem(concat("head_dim is ", head_dim, ", expected an even number: rotary embeddings turn pairs"));
    return {};
  }
  RotarySpec spec{.inv_freq = at::empty({head_dim / 2}, at::kFloat), .attention_scaling = 1, .at_length = {}};
  const Reading reading{reader, table, name, rules, head_dim, max_positions, theta, spec.inv_freq.mutable_data_ptr<float>()};
  fill_default(reading.frequency, head_dim, theta);

  if (type == "default") return spec;
  if (type == "linear") {
    const auto factor = static_cast<float>(reading.factor());
    for (int64_t i = 0; i < head_dim / 2; ++i) reading.frequency[i] /= factor;
  } else if (type == "dynamic") {
    scale_dynamic(reading, spec);
  } else if (type == "yarn") {
    scale_yarn(reading, spec);
  } else if (type == "longrope") {
    scale_longrope(reading, spec);
  } else if (type == "llama3") {
    scale_llama3(reading);
  } else if (type == "proportional") {
    scale_proportional(reading);
  } else {
    reader.problem(concat(name, " asks for the rope type ", ConfigReader::show(Value(type)),
                          ", expected default, linear, dynamic, yarn, longrope, llama3 or proportional"));
  }
  return spec;
}

}  // namespace tenon::nn
