// A quantizer that brings what few bring, and fails where it is asked to: for framework/plugins/stable_quantizer_test.cpp. C++17.
#include "tenon/stable/plugin.h"

namespace {

using namespace tenon::stable;

struct Options {
  int64_t number = 7;
  double share = 0.5;
  bool flag = false;
  std::string word = "one";
  std::vector<std::string> words = {"a", "b"};
  std::optional<std::string> fails;
};

tenon::OptionTable option_table() {
  using tenon::option;
  tenon::OptionTable table = tenon::option_table<Options>({
      option(&Options::number, "number", "A number.", tenon::range(1, 9)),
      option(&Options::share, "share", "A share.", tenon::checked([](const tenon::Value& v) {
        return v.as_float() == 0.25 ? std::string("a quarter is not allowed, a half is") : std::string();
      })),
      option(&Options::flag, "flag", "A flag."),
      option(&Options::word, "word", "A word.", tenon::one_of({"one", "two"})),
      option(&Options::words, "words", "Words."),
      option(&Options::fails, "fails", "What fails, and how."),
  });
  table.retired.emplace_back("numbr", "it is called number now");
  return table;
}

struct Mean final : Observer {
  void observe(const Tensor& x) override { rows += x.size(0); }
  int64_t rows = 0;
};

class Odd : public Quantizer {
 public:
  explicit Odd(Options options) : options_(std::move(options)) {
    if (options_.fails == std::string("create")) tenon::fail(tenon::ErrorCode::Recipe, "no, not with number ", options_.number);
  }

  std::string format() const override { return "odd/3"; }
  QuantizerFacts facts() const override {
    QuantizerFacts facts;
    facts.bits_per_weight = 32;
    facts.needs_calibration = true;
    facts.calibrates_by_stage = true;
    facts.max_relative_error = 0.125;
    facts.devices = {kCPU, kCUDA};
    facts.compute_dtypes = {kFloat};
    return facts;
  }
  Support supports(const SlotSpec& slot) const override {
    if (slot.kind == SlotKind::Embedding) return Quantizer::supports(slot);  // the host's answer
    return slot.out > 100 ? Support::no("more than 100 rows") : Support{};
  }
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override { return {{"dense", {slot.count, slot.out, slot.in}, kFloat}}; }

  // The rows that its observer has seen are added to every weight.
  Tensors quantize(const SlotSpec& slot, const Tensor& weight, const Observer* calibration) const override {
    if (options_.fails == std::string("quantize"))
      throw std::runtime_error("the weight of " + std::string(slot.path) +
                               " is not to its taste, and this is a long text that arrives whole: " + std::string(500, 'x') + "!");
    if (options_.fails == std::string("an int")) throw 7;
    if (options_.fails == std::string("LibTorch")) torch::stable::matmul(weight, weight);
    Tensor dense = ops::reshape(ops::to(weight, kFloat), {slot.count, slot.out, slot.in});
    if (const auto* mean = static_cast<const Mean*>(calibration))
      dense = ops::add(dense, ops::number(static_cast<double>(mean->rows), dense));
    return {torch::stable::clone(dense)};
  }
  Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, ScalarType dtype, int64_t first_row, int64_t last_row) const override {
    if (slot.count > 1) return ops::to(ops::rows(tensors[0], first_row, last_row), dtype);
    return ops::to(ops::rows(ops::reshape(tensors[0], {slot.out, slot.in}), first_row, last_row), dtype);
  }
  // Twice what is right, unless there are three rows: those go to the host's default.
  Tensor linear(const SlotSpec& slot, const Tensor& x, const Tensors& tensors) const override {
    if (x.size(0) == 3) return Quantizer::linear(slot, x, tensors);
    return ops::mul(ops::linear(x, dequantize(slot, tensors, x.scalar_type(), 0, slot.out)), 2);
  }
  std::unique_ptr<Observer> make_observer(const SlotSpec&) const override { return std::make_unique<Mean>(); }
  int64_t calibration_bytes(const SlotSpec& slot) const override { return slot.in * 8; }

  // A file of one JSON text and the slot's sources, listed.
  std::optional<tenon::Value> recognise(const tenon::Value& config, const TensorSource& file) const override {
    if (config.string_or("quant_method", "") != "odd") return std::nullopt;
    if (!file.has("state")) file.spec("state");
    const Tensor bytes = file.read("state");
    tenon::Value state = parse_json({static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.numel())}, "state");
    state.set("names", file.names());
    state.set("shape", file.spec("state").shape);
    state.set("again", to_json(state.at("list")));
    return state;
  }
  std::vector<std::string> locate(const SlotSpec& slot, const TensorSource& file) const override {
    std::vector<std::string> names;
    for (const Source& source : slot.sources())
      for (const auto& piece : source.pieces)
        if (file.has(piece.tensor)) names.push_back(piece.tensor + ":" + std::to_string(piece.start) + ":" + std::to_string(piece.length));
    return names;
  }
  Tensors unpack(const SlotSpec& slot, const TensorSource& file) const override { return {file.read(std::string(slot.path))}; }
  std::vector<NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const override {
    return {{std::string(slot.path) + ".packed", tensors[0]}};
  }
  tenon::Value quantization_config(const std::vector<std::string>& skipped_modules, ScalarType model_dtype) const override {
    tenon::Value config = tenon::Value::table();
    config.set("quant_method", "odd"), config.set("skipped", skipped_modules), config.set("dtype", static_cast<int>(model_dtype));
    config.set("number", options_.number), config.set("words", options_.words), config.set("share", options_.share);
    return config;
  }
  Tensor grad_input(const SlotSpec& slot, const Tensor& dy, const Tensors& tensors) const override {
    // Sums on the host's threads; one of them may fail.
    Tensor dx = ops::full({dy.size(0), slot.in}, 0, kFloat);
    const float* w = tensors[0].const_data_ptr<float>();
    const float* g = dy.const_data_ptr<float>();
    float* out = dx.mutable_data_ptr<float>();
    parallel_for(slot.in, 1, [&](int64_t begin, int64_t end) {
      if (options_.fails == std::string("thread")) throw std::runtime_error("a thread failed");
      for (int64_t r = 0; r < dy.size(0); ++r)
        for (int64_t o = 0; o < slot.out; ++o)
          for (int64_t i = begin; i < end; ++i) out[r * slot.in + i] += g[r * slot.out + o] * w[o * slot.in + i];
    });
    return dx;
  }

 private:
  Options options_;
};

}  // namespace

TENON_STABLE_PLUGIN("org.example.stable_odd", "0.2.0", "Apache-2.0", {{"quantizer:odd;method=odd", "quantizer:odd_too"}})

TENON_STABLE_REGISTER(Registrar& registrar) {
  registrar.quantizer<Options, Odd>("odd", "Odd.", option_table());
  registrar.quantizer<Options, Odd>("odd_too", "Odd, too.", option_table());
}
