#include "rope_scaling.h"

#include <cmath>
#include <optional>
#include <utility>

#include "tenon/error.h"

namespace tenon::rope {

namespace {
template <class T>
void put(Value& table, const char* key, const std::optional<T>& value) {
  if (value) table.set(key, *value);
}

// What the configs say now, rope_scaling before rope_parameters; a table beside the text model's config wins over the one in it.
Value current(const Value& config, const Value& owner) {
  for (const Value* place : {&config, &owner})
    for (const char* key : {"rope_scaling", "rope_parameters"})
      if (const Value* table = place->find_set(key); table && table->is_table() && !table->as_table().empty()) return *table;
  return Value::table();
}
}  // namespace

OptionTable option_table() {
  const Constraint factor = range(1), positive = range(0);
  return tenon::option_table<Options>({
      option(&Options::rope_type, "rope_type", "How frequencies are stretched.",
             one_of({"linear", "dynamic", "yarn", "longrope", "llama3"})),
      option(&Options::factor, "factor", "How many times longer the context becomes.", factor),
      option(&Options::original_max_position_embeddings, "original_max_position_embeddings",
             "The context that the model was trained on; by default config.json's max_position_embeddings.", range(1)),
      option(&Options::rope_theta, "rope_theta", "Another base; by default config.json's.", positive),
      option(&Options::attention_factor, "attention_factor",
             "yarn, longrope: what cos and sin are multiplied with, instead of what follows from the factor.", positive),
      option(&Options::beta_fast, "beta_fast", "yarn: turns within the context above which a frequency stays; 32 by default.", positive),
      option(&Options::beta_slow, "beta_slow", "yarn: turns below which it is stretched in full; 1 by default.", positive),
      option(&Options::mscale, "mscale", "yarn: weight of the attention factor's numerator.", positive),
      option(&Options::mscale_all_dim, "mscale_all_dim", "yarn: weight of its denominator.", positive),
      option(&Options::truncate, "truncate", "yarn: round the ramp's ends to whole pairs; true by default.", {}),
      option(&Options::low_freq_factor, "low_freq_factor", "llama3: wavelengths above context / this are stretched; 1 by default.",
             positive),
      option(&Options::high_freq_factor, "high_freq_factor", "llama3: wavelengths below context / this stay; 4 by default.", positive),
      option(&Options::short_factor, "short_factor", "longrope: a factor for each pair of a head, within the original context.", {}),
      option(&Options::long_factor, "long_factor", "longrope: the same beyond it.", {}),
  });
}

bool RopeScaling::on_config(Value& config) {
  const bool is_longrope = options_.rope_type == "longrope";
  if (!is_longrope && !options_.factor)
    fail(ErrorCode::Recipe, "rope_scaling of type '", options_.rope_type, "' needs a factor: how many times longer the context becomes");
  if (is_longrope && (!options_.short_factor.is_list() || !options_.long_factor.is_list()))
    fail(ErrorCode::Recipe,
         "rope_scaling of type 'longrope' needs short_factor and long_factor, lists with a number for each pair of a head");
  // Stretched by 1, every type but longrope is the default one.
  if (!is_longrope && *options_.factor == 1 && !options_.rope_theta) return false;

  // Of a model of several parts the text model turns by these.
  const Value* text = config.find("text_config");
  const bool is_nested = text && text->is_table();
  Value owner = is_nested ? *text : config;
  const Value before = current(config, owner);
  const Value* theta = before.find_set("rope_theta");
  const Value* positions = owner.find_set("max_position_embeddings");
  Value table = Value::table();
  table.set("rope_type", options_.rope_type);
  if (theta && !options_.rope_theta) table.set("rope_theta", *theta);
  // Which pairs turn, and with which axis of a picture, has nothing to do with how far.
  for (const char* key : {"mrope_section", "partial_rotary_factor"})
    if (const Value* kept = before.find_set(key)) table.set(key, *kept);
  put(table, "rope_theta", options_.rope_theta), put(table, "factor", options_.factor),
      put(table, "attention_factor", options_.attention_factor);
  put(table, "beta_fast", options_.beta_fast), put(table, "beta_slow", options_.beta_slow);
  put(table, "mscale", options_.mscale), put(table, "mscale_all_dim", options_.mscale_all_dim), put(table, "truncate", options_.truncate);
  if (options_.rope_type == "llama3") {
    table.set("low_freq_factor", options_.low_freq_factor.value_or(1));
    table.set("high_freq_factor", options_.high_freq_factor.value_or(4));
  }
  if (is_longrope) table.set("short_factor", options_.short_factor), table.set("long_factor", options_.long_factor);

  const bool has_original = options_.rope_type == "yarn" || options_.rope_type == "llama3" || is_longrope;
  std::optional<int64_t> original = options_.original_max_position_embeddings;
  if (!original && positions && positions->is_int()) original = positions->as_int();
  if (has_original) put(table, "original_max_position_embeddings", original);
  if (before == table) return false;

  owner.erase("rope_scaling");
  // Beside the table it wins over the one in it, and some classes read it there alone.
  if (has_original) owner.erase("original_max_position_embeddings"), put(owner, "original_max_position_embeddings", original);
  owner.set("rope_parameters", table);
  // Dynamic scaling measures its growth from max_position_embeddings, which therefore stays.
  std::optional<int64_t> stretched;
  if (original && options_.factor && options_.rope_type != "dynamic")
    stretched = static_cast<int64_t>(std::floor(static_cast<double>(*original) * *options_.factor));
  put(owner, "max_position_embeddings", stretched);
  if (!is_nested) {
    config = std::move(owner);
    return true;
  }
  config.set("text_config", std::move(owner));
  for (const char* key : {"rope_scaling", "rope_parameters"}) config.erase(key);
  if (config.find_set("max_position_embeddings")) put(config, "max_position_embeddings", stretched);
  return true;
}

}  // namespace tenon::rope
