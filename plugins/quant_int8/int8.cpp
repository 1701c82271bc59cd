#include "int8.h"

#include <algorithm>
#include <mutex>

#include "int8_device.h"

namespace tenon::int8 {

using namespace stable;

namespace {

constexpr int64_t kGrainElements = 1 << 15;  // a thread's least share of work over elements
constexpr int64_t kMultiplyGrain = 32;       // weight rows; a thread's least share of a product
constexpr int64_t kFusedRows = 16;           // up to so many rows of x, outliers are multiplied beside the codes

}  // namespace

Dtype kernel_dtype(ScalarType dtype) {
  switch (dtype) {
    case kFloat: return Dtype::F32;
    case kBFloat16: return Dtype::Bf16;
    case kHalf: return Dtype::F16;
    default: fail(ErrorCode::Plugin, "8-bit products take float32, bfloat16 or float16, found dtype ", static_cast<int>(dtype));
  }
}

namespace {

int64_t grain_of_rows(int64_t cols) { return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, cols)); }

// Experts lie one below the other; what counts as a row outside, a member, is `row_count` rows here.
int64_t row_count(const SlotSpec& slot) { return slot.kind == SlotKind::Experts ? slot.out : 1; }
int64_t all_rows(const SlotSpec& slot) { return slot.count * slot.out; }

Weight view(const SlotSpec& slot, const Tensors& tensors) {
  return {static_cast<const int8_t*>(tensors[0].const_data_ptr()), static_cast<const float*>(tensors[1].const_data_ptr()), all_rows(slot),
          slot.in};
}

// Columns with a magnitude of at least `threshold` in any row.
std::vector<int64_t> outlier_columns(const Tensor& x, int64_t rows, int64_t cols, double threshold) {
  if (threshold <= 0) return {};
  std::vector<uint8_t> is_outlier(static_cast<size_t>(cols));
  std::mutex mutex;
  const Dtype dtype = kernel_dtype(x.scalar_type());
  const void* data = x.const_data_ptr();
  parallel_for(rows, grain_of_rows(cols), [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> mine(static_cast<size_t>(cols));
    kernels().find_outliers(data, dtype, begin, end, cols, static_cast<float>(threshold), mine.data());
    const std::lock_guard<std::mutex> lock(mutex);
    for (size_t c = 0; c < mine.size(); ++c) is_outlier[c] |= mine[c];
  });
  std::vector<int64_t> columns;
  for (int64_t c = 0; c < cols; ++c)
    if (is_outlier[static_cast<size_t>(c)]) columns.push_back(c);
  return columns;
}

float element(const void* data, ScalarType dtype, int64_t i) {
  if (dtype == kFloat) return static_cast<const float*>(data)[i];
  if (dtype == kBFloat16) return static_cast<const c10::BFloat16*>(data)[i];
  return static_cast<const c10::Half*>(data)[i];
}

// What is made of x once, for all weights that read it.
struct Quantized {
  Tensor codes, scales, sums, values;
  std::vector<int64_t> outliers;
  Activation view{};
};

Quantized quantize_activation(const Tensor& x, int64_t rows, int64_t cols, double threshold) {
  const int64_t stride = row_stride(cols);
  std::vector<int64_t> outliers = outlier_columns(x, rows, cols, threshold);
  const auto count = static_cast<int64_t>(outliers.size());
  Quantized q{ops::empty({rows, stride}, kChar), ops::empty({rows}, kFloat), ops::empty({rows}, kInt), ops::empty({rows, count}, kFloat),
              std::move(outliers)};
  const Dtype dtype = kernel_dtype(x.scalar_type());
  const void* data = x.const_data_ptr();
  auto* codes = static_cast<int8_t*>(q.codes.mutable_data_ptr());
  auto* scales = static_cast<float*>(q.scales.mutable_data_ptr());
  auto* sums = static_cast<int32_t*>(q.sums.mutable_data_ptr());
  auto* values = static_cast<float*>(q.values.mutable_data_ptr());
  parallel_for(rows, grain_of_rows(cols), [&](int64_t begin, int64_t end) {
    kernels().quantize_activation(data, dtype, begin, end, cols, static_cast<float>(threshold), q.outliers.data(), count, codes, scales,
                                  sums);
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < count; ++i)
        values[row * count + i] = element(data, x.scalar_type(), row * cols + q.outliers[static_cast<size_t>(i)]);
  });
  q.view = {codes, scales, sums, rows, stride, q.outliers.data(), count, values, nullptr};
  return q;
}

}  // namespace

OptionTable option_table() {
  const char* doc = "Activations of at least this magnitude make their column an outlier, which is multiplied apart; 0: none.";
  return tenon::option_table<Options>({
      option(&Options::threshold, "threshold", doc, range(0)),
      option(&Options::threshold, "llm_int8_threshold", "The same, by the name that transformers gives it.", range(0)),
  });
}

QuantizerFacts Int8::facts() const {
  QuantizerFacts facts;
  facts.bits_per_weight = 8;
  if (cuda::is_built()) facts.devices = {kCPU, kCUDA};
  facts.max_relative_error =
      0.02;  // normal weights, rows of up to 100,000: largest magnitude 4.4 sigma, a step of 4.4 / 127, RMS step / sqrt(12)
  return facts;
}

std::vector<TensorSpec> Int8::resident(const SlotSpec& slot) const {
  return {{"codes", {all_rows(slot), slot.in}, kChar}, {"scales", {all_rows(slot)}, kFloat}};
}

Tensors Int8::begin(const SlotSpec& slot, Device device) const {
  return {ops::empty({all_rows(slot), slot.in}, kChar, device), ops::empty({all_rows(slot)}, kFloat, device)};
}

void Int8::quantize_rows(const SlotSpec& slot, const Tensor& rows, int64_t first_row, Tensors& work) const {
  const Tensor source = ops::contiguous(rows);
  const Dtype dtype = kernel_dtype(source.scalar_type());
  const void* data = source.const_data_ptr();
  const int64_t first = first_row * row_count(slot);
  auto* codes = static_cast<int8_t*>(work[0].mutable_data_ptr()) + first * slot.in;
  auto* scales = static_cast<float*>(work[1].mutable_data_ptr()) + first;
  if (source.is_cuda()) return cuda::quantize_rows(data, dtype, source.size(0) * row_count(slot), slot.in, codes, scales, place_of(source));
  parallel_for(source.size(0) * row_count(slot), grain_of_rows(slot.in),
               [&](int64_t begin, int64_t end) { kernels().quantize_rows(data, dtype, begin, end, slot.in, codes, scales); });
}

Tensors Int8::quantize(const SlotSpec& slot, const Tensor& weight, const Observer*) const {
  Tensors work = begin(slot, weight.device());
  quantize_rows(slot, weight, 0, work);
  return work;
}

Tensor Int8::dequantize(const SlotSpec& slot, const Tensors& tensors, ScalarType dtype, int64_t first_row, int64_t last_row) const {
  const Weight weight = view(slot, tensors);
  std::vector<int64_t> shape{last_row - first_row, slot.in};
  if (slot.kind == SlotKind::Experts) shape.insert(shape.begin() + 1, slot.out);
  Tensor out = ops::empty(shape, dtype, tensors[0].device());
  const int64_t first = first_row * row_count(slot), last = last_row * row_count(slot);
  if (out.is_cuda()) {
    cuda::dequantize(weight, first, last, kernel_dtype(dtype), out.mutable_data_ptr(), place_of(out));
    return out;
  }
  auto* data = static_cast<char*>(out.mutable_data_ptr());
  const int64_t row_bytes = slot.in * (dtype == kFloat ? 4 : 2);
  parallel_for(last - first, grain_of_rows(slot.in), [&](int64_t begin, int64_t end) {
    kernels().dequantize(weight, first + begin, first + end, kernel_dtype(dtype), data + begin * row_bytes);
  });
  return out;
}

Tensors Int8::linear_many(const std::vector<Operand>& weights, const Tensor& x) const {
  const int64_t in = weights.front().slot->in, rows = in > 0 ? x.numel() / in : 0;
  const Tensor flat = ops::contiguous(ops::reshape(x, {rows, in}));
  if (flat.is_cuda()) {
    std::vector<Weight> on_device;
    for (const Operand& w : weights) on_device.push_back(view(*w.slot, *w.tensors));
    return multiply_on_device(on_device, flat, ops::shape_of(x), options_.threshold);
  }
  const Quantized q = quantize_activation(flat, rows, in, options_.threshold);
  const auto count = static_cast<int64_t>(q.outliers.size());
  const bool is_apart = count > 0 && rows > kFusedRows;

  std::vector<Weight> views;
  std::vector<Activation> inputs;
  std::vector<int64_t> starts{0};
  Tensors outputs, products;
  std::vector<void*> data;
  std::vector<int64_t> shape = ops::shape_of(x);
  for (const Operand& w : weights) {
    const Weight& weight = views.emplace_back(view(*w.slot, *w.tensors));
    inputs.push_back(q.view);
    if (is_apart) {
      const Tensor columns = ops::empty({weight.rows, count}, kFloat);
      auto* to = static_cast<float*>(columns.mutable_data_ptr());
      parallel_for(weight.rows, grain_of_rows(count),
                   [&](int64_t begin, int64_t end) { kernels().gather(weight, begin, end, q.outliers.data(), count, to); });
      products.push_back(ops::linear(q.values, columns));
      inputs.back().outlier_product = static_cast<const float*>(products.back().const_data_ptr());
    }
    shape.back() = weight.rows;
    outputs.push_back(ops::empty(shape, x.scalar_type()));
    data.push_back(outputs.back().mutable_data_ptr());
    starts.push_back(starts.back() + weight.rows);
  }
  const Dtype dtype = kernel_dtype(x.scalar_type());
  // The rows of all weights in one row: a thread's share may cross from one weight into the next.
  parallel_for(starts.back(), kMultiplyGrain, [&](int64_t from, int64_t to) {
    std::vector<uint8_t> scratch(rows >= kernels().packed_rows && kernels().packed_bytes ? static_cast<size_t>(kernels().packed_bytes(in))
                                                                                         : 0);
    uint8_t* const packed = scratch.empty() ? nullptr : scratch.data();
    for (size_t i = 0; i < views.size(); ++i) {
      const int64_t first = std::max(from, starts[i]) - starts[i], last = std::min(to, starts[i + 1]) - starts[i];
      if (first < last) kernels().multiply(views[i], inputs[i], first, last, packed, data[i], dtype, views[i].rows);
    }
  });
  return outputs;
}

// By byte products where they are fast: of the three factors of dy * scale * code the first two make 16-bit numbers, beside which what a bfloat16
// or float16 loses is large. In float32 the host's own product of dequantized weights says more.
Tensor Int8::grad_input(const SlotSpec& slot, const Tensor& dy, const Tensors& tensors) const {
  const Weight weight = view(slot, tensors);
  const bool is_fast = kernels().multiply_transposed != nullptr && weight.rows <= kGradientRows;
  if (dy.is_cuda() || dy.scalar_type() == kFloat || slot.kind == SlotKind::Experts || !is_fast)
    return Quantizer::grad_input(slot, dy, tensors);
  const int64_t rows = weight.rows > 0 ? dy.numel() / weight.rows : 0, stride = row_stride(weight.rows);
  const Tensor flat = ops::contiguous(ops::reshape(dy, {rows, weight.rows}));
  const Tensor codes = ops::empty({2 * rows, stride}, kChar), scales = ops::empty({rows}, kFloat), sums = ops::empty({2 * rows}, kInt);
  const Dtype dtype = kernel_dtype(dy.scalar_type());
  const void* data = flat.const_data_ptr();
  auto* to_codes = static_cast<int8_t*>(codes.mutable_data_ptr());
  auto* to_scales = static_cast<float*>(scales.mutable_data_ptr());
  auto* to_sums = static_cast<int32_t*>(sums.mutable_data_ptr());
  parallel_for(rows, grain_of_rows(weight.rows), [&](int64_t begin, int64_t end) {
    kernels().quantize_gradient(data, dtype, weight.scales, begin, end, weight.rows, to_codes, to_scales, to_sums);
  });
  const Gradient gradient{to_codes, to_scales, to_sums, rows, stride};
  std::vector<int64_t> shape = ops::shape_of(dy);
  shape.back() = weight.cols;
  const Tensor dx = ops::empty(shape, dy.scalar_type());
  void* out = dx.mutable_data_ptr();
  parallel_for(weight.cols, kMultiplyGrain, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> scratch(static_cast<size_t>(kernels().packed_bytes(weight.rows)));
    kernels().multiply_transposed(weight, gradient, begin, end, scratch.data(), out, dtype, weight.cols);
  });
  return dx;
}

// A product for each expert, as bitsandbytes has one layer for each: outlier columns are those of the expert's own tokens.
Tensor Int8::grouped(const SlotSpec& slot, const Tensor& x, const Tensor& offsets, const Tensors& tensors) const {
  const Tensor y = ops::empty({x.size(0), slot.out}, x.scalar_type(), x.device());
  const Tensor bounds = ops::cpu(offsets);
  const int64_t* bound = bounds.const_data_ptr<int64_t>();
  SlotSpec member = slot;
  member.kind = SlotKind::Linear, member.count = 1;
  for (int64_t e = 0; e < slot.count; ++e) {
    if (bound[e] == bound[e + 1]) continue;
    const Tensors own{ops::rows(tensors[0], e * slot.out, (e + 1) * slot.out), ops::rows(tensors[1], e * slot.out, (e + 1) * slot.out)};
    ops::copy(ops::rows(y, bound[e], bound[e + 1]), linear(member, ops::rows(x, bound[e], bound[e + 1]), own));
  }
  return y;
}

Tensor Int8::rows(const SlotSpec& slot, const Tensor& ids, const Tensors& tensors, ScalarType dtype) const {
  if (!ids.is_cuda()) return Quantizer::rows(slot, ids, tensors, dtype);
  std::vector<int64_t> shape = ops::shape_of(ids);
  shape.push_back(slot.in);
  const Tensor flat = ops::contiguous(ids), out = ops::empty(shape, dtype, ids.device());
  cuda::gather_rows(view(slot, tensors), flat.const_data_ptr<int64_t>(), flat.numel(), kernel_dtype(dtype), out.mutable_data_ptr(),
                    place_of(out));
  return out;
}

Tensor Int8::linear(const SlotSpec& slot, const Tensor& x, const Tensors& tensors) const { return linear_many({{&slot, &tensors}}, x)[0]; }

}  // namespace tenon::int8
