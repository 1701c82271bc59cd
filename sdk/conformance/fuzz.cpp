// Level 3: random options and shapes. Each case has a seed of its own, which a failure names for --reproduce.
#include <algorithm>
#include <cmath>
#include <limits>

#include "any_provider.h"
#include "product_error.h"
#include "quantizer_kit.h"
#include "tenon/json.h"

namespace tenon::conformance {

namespace {

constexpr int64_t kOptionCases = 200, kQuantizerCases = 100;

// SplitMix64.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int64_t between(int64_t low, int64_t high) { return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1)); }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool coin() { return next() & 1; }

 private:
  uint64_t state_;
};

// One value that the row allows; null where none can be made up.
Value allowed_value(const OptionRow& row, Dice& dice) {
  const Constraint& limits = row.constraint;
  if (!limits.choices.empty()) return limits.choices[static_cast<size_t>(dice.between(0, static_cast<int64_t>(limits.choices.size()) - 1))];
  if (row.type == "bool") return dice.coin();
  // An open end is taken a little beyond the other one, or the default.
  const double near = row.default_value.is_number() ? row.default_value.as_float() : 1;
  const double low = std::isfinite(limits.min) ? limits.min : std::min(near, limits.max) - 16,
               high = std::isfinite(limits.max) ? limits.max : std::max(near, low) + 64;
  if (row.type == "int") return dice.between(static_cast<int64_t>(low), static_cast<int64_t>(std::min(high, 1e15)));
  if (row.type == "float") return low + dice.unit() * (high - low);
  return {};
}

Value allowed_options(Context& c, const OptionTable& table, Dice& dice) {
  Value options = Value::table();
  for (const auto& row : table.rows) {
    if (dice.coin()) continue;
    const Value value = allowed_value(row, dice);
    if (value.is_null()) continue;
    if (c.subject().option_problems(table, Value(Value::Table{{row.name, value}}), c.provided().subject()).empty())
      options.set(row.name, value);
  }
  return options;
}

// Anything at all.
Value any_value(Dice& dice) {
  switch (dice.between(0, 7)) {
    case 0: return dice.coin();
    case 1: return static_cast<int64_t>(dice.next());
    case 2: return dice.between(-3, 3);
    case 3: return std::numeric_limits<double>::quiet_NaN();
    case 4: return (dice.unit() - 0.5) * std::pow(10, static_cast<double>(dice.between(-300, 300)));
    case 5: return std::string(static_cast<size_t>(dice.between(0, 40)), static_cast<char>(dice.between(1, 255)));
    case 6: return Value(Value::List{dice.between(0, 9), "x"});
    default: return Value(Value::Table{{"key", dice.between(0, 9)}});
  }
}

// Runs the cases; a failure names the case's seed.
void run_cases(Context& c, int64_t count, const std::function<void(Dice&)>& body) {
  Dice seeds(c.base_seed());
  for (int64_t i = 0; i < (c.reproduces() ? 1 : count); ++i) {
    // Short enough to be typed, and a TOML integer.
    const uint64_t seed = c.reproduces() ? c.base_seed() : seeds.next() >> 33;
    Dice dice(seed);
    auto fail_with = [&](const std::string& text) {
      failed(text, "\nagain: host check-plugin ", c.subject().file.string(), " --reproduce ", seed);
    };
    try {
      body(dice);
    } catch (const Failed& failure) {
      fail_with(failure.text);
    } catch (const std::exception& error) {
      fail_with(error.what());
    }
  }
}

void check_options(Context& c) {
  const AnyProvider provider = any_provider(c);
  if (provider.options->rows.empty()) skipped("it has no options");
  run_cases(c, kOptionCases, [&](Dice& dice) {
    const Value options = allowed_options(c, *provider.options, dice);
    try {
      provider.make(options);
    } catch (const Error& error) {
      // Options may contradict each other; that is a refusal in the recipe's terms.
      expect(error.code() == ErrorCode::Recipe || error.code() == ErrorCode::Plugin || error.code() == ErrorCode::Data, "with ",
             to_json(options), " it threw error ", static_cast<int>(error.code()), ": ", error.what());
    } catch (const std::exception& error) {
      failed("with ", to_json(options), " it threw something else than tenon::Error: ", error.what());
    }
    // The table must judge whatever stands in a recipe, and never crash.
    Value wild = Value::table();
    for (const auto& row : provider.options->rows)
      if (dice.coin()) wild.set(row.name, any_value(dice));
    c.subject().option_problems(*provider.options, wild, c.provided().subject());
  });
}

void check_quantizer(Context& c) {
  const auto& provider = c.provider(&Registrar::quantizers);
  run_cases(c, kQuantizerCases, [&](Dice& dice) {
    const Value options = allowed_options(c, provider.options, dice);
    Setting s;
    try {
      s = make_setting(c, options, at::kCPU);
    } catch (const Error&) {
      return;
    }
    constexpr at::ScalarType dtypes[] = {at::kFloat, at::kBFloat16, at::kHalf};
    const SlotSpec slot = linear_slot(dice.between(1, 130), dice.between(1, 5) == 1 ? dice.between(1, 600) : 32 * dice.between(1, 24),
                                      dtypes[dice.between(0, 2)]);
    if (!s.supports(slot)) return;
    const std::string what = concat("[", slot.out, ", ", slot.in, "] ", c10::toString(slot.dtype), " with ", to_json(options), ": ");
    const double scale = std::pow(10, dice.unit() * 4 - 3);
    const at::Tensor weight = normal({slot.out, slot.in}, dice.next(), slot.dtype, scale);
    const Tensors tensors = s.pack(slot, weight);
    const auto specs = s.quantizer->resident(slot);
    expect(tensors.size() == specs.size(), what, tensors.size(), " tensors, resident() promises ", specs.size());
    for (size_t i = 0; i < specs.size(); ++i)
      expect(tensors[i].sizes() == at::IntArrayRef(specs[i].shape) && tensors[i].scalar_type() == specs[i].dtype, what, "tensor '",
             specs[i].name, "' is ", shape_text(tensors[i].sizes()), ", resident() promises ", shape_text(specs[i].shape));
    const at::Tensor dense = s.dense(slot, tensors);
    expect(all_finite(dense), what, "dequantize holds numbers that are not finite");
    // Of a few numbers the error is a matter of luck.
    if (const double bound = s.facts.max_relative_error; bound > 0 && slot.numel() >= 4096)
      expect(relative_rms(dense, weight) <= bound, what, "relative RMS error ", relative_rms(dense, weight), ", facts() promise ", bound);
    const at::ScalarType dtype =
        s.facts.compute_dtypes[static_cast<size_t>(dice.between(0, static_cast<int64_t>(s.facts.compute_dtypes.size()) - 1))];
    const at::Tensor x = normal({dice.between(1, 40), slot.in}, dice.next(), dtype),
                     dy = normal({dice.between(1, 40), slot.out}, dice.next(), dtype);
    const double forward = product_error(s.quantizer->linear(slot, x, tensors), x, dense),
                 backward = product_error(s.quantizer->grad_input(slot, dy, tensors), dy, dense.t());
    expect(forward <= kProductTolerance, what, "linear of ", x.size(0), " rows ", c10::toString(dtype), " is off by ", forward);
    expect(backward <= kProductTolerance, what, "grad_input of ", dy.size(0), " rows ", c10::toString(dtype), " is off by ", backward);
  });
}

}  // namespace

std::vector<Check> fuzz_checks() {
  return {
      {"fuzz.options", 3, "options.defaults", "Options that are each valid must not crash together, and a table must judge any value.",
       check_options},
      {"fuzz.quantizer", 3, "quantizer.calls", "Models come in shapes that nobody listed.", check_quantizer},
  };
}

}  // namespace tenon::conformance
