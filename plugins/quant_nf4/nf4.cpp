#include "nf4.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>

#include <algorithm>
#include <numeric>

#include "nf4_cuda.h"
#include "tenon/device.h"

namespace tenon::nf4 {

namespace {

constexpr int64_t kFusedRows = 16;  // batches up to this size multiply straight from the codes
constexpr int64_t kDequantizeGrain = 1 << 14;
constexpr int64_t kMultiplyGrain = 32;  // weight rows; a thread's least share

Dtype kernel_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return Dtype::F32;
    case at::kBFloat16: return Dtype::Bf16;
    case at::kHalf: return Dtype::F16;
    default: fail(ErrorCode::Plugin, "4-bit weights are made from float32, bfloat16 or float16, found ", c10::toString(dtype));
  }
}

at::ScalarType named_dtype(const std::string& name) {
  return name == "float32" ? at::kFloat : name == "float16" ? at::kHalf : at::kBFloat16;
}

int64_t blocks_of(const SlotSpec& slot, int64_t block) { return block_count(slot.numel(), block); }

// Work tensors between begin and finish: codes and float absmax, whatever the options.
enum { kCodesTensor, kAbsmax, kNested, kOffset };

}  // namespace

OptionTable option_table() {
  std::vector<Value> blocks;
  for (int64_t b = 32; b <= 4096; b *= 2) blocks.emplace_back(b);
  return tenon::option_table<Options>({
      option(&Options::block_size, "block_size", "Weights that share one absmax.", one_of(blocks)),
      option(&Options::double_quant, "double_quant", "Quantize the absmax values again, to 8 bits in blocks of 256.", {}),
      option(&Options::compute_dtype, "compute_dtype", "What products are computed in; auto: as the activations come.",
             one_of({"auto", "float32", "bfloat16", "float16"})),
      option(&Options::quant_storage, "quant_storage", "The dtype that packed codes have in files; the bytes are the same.",
             one_of({"uint8", "bfloat16", "float16", "float32"})),
  });
}

Quantizer4Bit::Quantizer4Bit(Codebook codebook, const Options& options) : codebook_(codebook), options_(options) {}

QuantizerFacts Quantizer4Bit::facts() const {
  const double block = static_cast<double>(options_.block_size);
  const double absmax_bits = options_.double_quant ? 8 + 32.0 / kNestedBlock : 32;
  // Measured on normal weights of block 4096, the worst allowed: 0.125 for NF4, 0.19 for FP4.
  return {.bits_per_weight = 4 + absmax_bits / block,
          .devices = cuda::is_built() ? std::vector<std::string>{"cpu", "cuda"} : std::vector<std::string>{"cpu"},
          .max_relative_error = codebook_ == Codebook::Nf4 ? 0.15 : 0.25};
}

Support Quantizer4Bit::supports(const SlotSpec& slot) const {
  if (slot.kind == SlotKind::Experts || slot.count != 1) return Support::no("expert weights in one tensor are not quantized");
  return {};
}

std::vector<TensorSpec> Quantizer4Bit::resident(const SlotSpec& slot) const {
  const int64_t blocks = blocks_of(slot, options_.block_size);
  std::vector<TensorSpec> specs{{"codes", {code_bytes(slot.numel()), 1}, at::kByte}};
  if (!options_.double_quant) {
    specs.push_back({"absmax", {blocks}, at::kFloat});
  } else {
    specs.push_back({"absmax", {blocks}, at::kByte});
    specs.push_back({"nested_absmax", {block_count(blocks, kNestedBlock)}, at::kFloat});
    specs.push_back({"nested_offset", {}, at::kFloat});
  }
  return specs;
}

int64_t Quantizer4Bit::row_granule(const SlotSpec& slot) const { return options_.block_size / std::gcd(slot.in, options_.block_size); }

Tensors Quantizer4Bit::begin(const SlotSpec& slot, at::Device device) const {
  const auto options = at::TensorOptions().device(device);
  return {at::empty({code_bytes(slot.numel()), 1}, options.dtype(at::kByte)),
          at::empty({blocks_of(slot, options_.block_size)}, options.dtype(at::kFloat))};
}

void Quantizer4Bit::quantize_rows(const SlotSpec& slot, const at::Tensor& rows, int64_t first_row, Tensors& work) const {
  const at::Tensor source = rows.contiguous();
  const int64_t begin = first_row * slot.in;
  uint8_t* codes = work[kCodesTensor].mutable_data_ptr<uint8_t>() + begin / 2;
  float* absmax = work[kAbsmax].mutable_data_ptr<float>() + begin / options_.block_size;
  if (source.is_cuda()) {
    cuda::quantize(source.const_data_ptr(), kernel_dtype(source.scalar_type()), source.numel(), codebook_,
                   static_cast<int32_t>(options_.block_size), codes, absmax, current_cuda_stream(source.device()));
    return;
  }
  const char* data = static_cast<const char*>(source.const_data_ptr());
  const int64_t element = static_cast<int64_t>(source.element_size()), block = options_.block_size;
  parallel_for(block_count(source.numel(), block), std::max<int64_t>(1, kDequantizeGrain / block), [&](int64_t from, int64_t to) {
    const int64_t first = from * block, count = std::min(to * block, source.numel()) - first;
    kernels().quantize(data + first * element, kernel_dtype(source.scalar_type()), count, codebook_, static_cast<int32_t>(block),
                       codes + first / 2, absmax + from);
  });
}

Tensors Quantizer4Bit::finish(const SlotSpec& slot, Tensors work) const {
  if (!options_.double_quant) return work;
  const int64_t blocks = blocks_of(slot, options_.block_size);
  const at::Device device = work[kAbsmax].device();
  // The absmax values are few: their second quantization runs on the host, in the one order that the stored offset depends on.
  const at::Tensor absmax = work[kAbsmax].cpu();
  at::Tensor codes = at::empty({blocks}, at::kByte), nested = at::empty({block_count(blocks, kNestedBlock)}, at::kFloat),
             offset = at::empty({}, at::kFloat);
  *offset.mutable_data_ptr<float>() = mean_absmax(absmax.const_data_ptr<float>(), blocks);
  quantize_absmax(absmax.const_data_ptr<float>(), blocks, *offset.const_data_ptr<float>(), codes.mutable_data_ptr<uint8_t>(),
                  nested.mutable_data_ptr<float>());
  return {work[kCodesTensor], codes.to(device), nested.to(device), offset};
}

Tensors Quantizer4Bit::quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer*) const {
  Tensors work = begin(slot, weight.device());
  quantize_rows(slot, weight.reshape({slot.out, slot.in}), 0, work);
  return finish(slot, std::move(work));
}

Weight Quantizer4Bit::view(const SlotSpec& slot, const Tensors& tensors) const {
  Weight w{.codes = tensors[kCodesTensor].const_data_ptr<uint8_t>(),
           .absmax = nullptr,
           .absmax_codes = nullptr,
           .nested_absmax = nullptr,
           .nested_offset = 0,
           .codebook = codebook_,
           .block = static_cast<int32_t>(options_.block_size),
           .rows = slot.out,
           .cols = slot.in};
  if (options_.double_quant) {
    w.absmax_codes = tensors[kAbsmax].const_data_ptr<uint8_t>();
    w.nested_absmax = tensors[kNested].const_data_ptr<float>();
    w.nested_offset = *tensors[kOffset].const_data_ptr<float>();
  } else {
    w.absmax = tensors[kAbsmax].const_data_ptr<float>();
  }
  return w;
}

at::ScalarType Quantizer4Bit::compute_dtype(at::ScalarType x) const {
  return options_.compute_dtype == "auto" ? x : named_dtype(options_.compute_dtype);
}

at::Tensor Quantizer4Bit::dequantize(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype, int64_t first_row,
                                     int64_t last_row) const {
  const Weight weight = view(slot, tensors);
  at::Tensor out = at::empty({last_row - first_row, slot.in}, tensors[kCodesTensor].options().dtype(dtype));
  const int64_t begin = first_row * slot.in;
  if (out.is_cuda()) {
    cuda::dequantize(weight, begin, out.numel(), kernel_dtype(dtype), out.mutable_data_ptr(), current_cuda_stream(out.device()));
    return out;
  }
  char* data = static_cast<char*>(out.mutable_data_ptr());
  const int64_t element = static_cast<int64_t>(out.element_size());
  parallel_for(out.numel(), kDequantizeGrain, [&](int64_t from, int64_t to) {
    kernels().dequantize(weight, begin + from, to - from, kernel_dtype(dtype), data + from * element);
  });
  return out;
}

std::vector<at::Tensor> Quantizer4Bit::linear_many(std::span<const Operand> weights, const at::Tensor& x) const {
  const at::ScalarType dtype = compute_dtype(x.scalar_type());
  const int64_t in = weights.front().slot->in, m = in > 0 ? x.numel() / in : 0;
  const at::Tensor flat = x.reshape({m, in}).to(dtype).contiguous();
  std::vector<at::Tensor> outputs;
  std::vector<int64_t> shape = x.sizes().vec();
  auto shaped = [&](const at::Tensor& y) {
    shape.back() = y.size(-1);
    return y.view(shape).to(x.scalar_type());
  };
  if (m > kFusedRows || m == 0) {
    for (const Operand& w : weights) outputs.push_back(shaped(at::linear(flat, dequantize(*w.slot, *w.tensors, dtype, 0, w.slot->out))));
    return outputs;
  }
  std::vector<Weight> views;
  std::vector<int64_t> starts{0};
  for (const Operand& w : weights) {
    views.push_back(view(*w.slot, *w.tensors));
    outputs.push_back(at::empty({m, w.slot->out}, flat.options()));
    starts.push_back(starts.back() + w.slot->out);
  }
  if (flat.is_cuda()) {
    for (size_t i = 0; i < views.size(); ++i)
      cuda::multiply(views[i], flat.const_data_ptr(), kernel_dtype(dtype), m, outputs[i].mutable_data_ptr(),
                     current_cuda_stream(flat.device()));
  } else {
    const Kernels& k = kernels();
    const at::Tensor packed = at::empty({static_cast<int64_t>(k.activation_bytes(views[0], kernel_dtype(dtype), m))}, at::kByte);
    k.pack_activation(views[0], flat.const_data_ptr(), kernel_dtype(dtype), m, in, packed.mutable_data_ptr());
    // The rows of all weights in one row: a thread's share may cross from one weight into the next.
    parallel_for(starts.back(), kMultiplyGrain, [&](int64_t from, int64_t to) {
      for (size_t i = 0; i < views.size(); ++i) {
        const int64_t first = std::max(from, starts[i]) - starts[i], last = std::min(to, starts[i + 1]) - starts[i];
        if (first < last)
          k.multiply(views[i], packed.const_data_ptr(), kernel_dtype(dtype), m, first, last, outputs[i].mutable_data_ptr(),
                     kernel_dtype(dtype), views[i].rows);
      }
    });
  }
  for (auto& y : outputs) y = shaped(y);
  return outputs;
}

at::Tensor Quantizer4Bit::linear(const SlotSpec& slot, const at::Tensor& x, const Tensors& tensors) const {
  const Operand one{&slot, &tensors};
  return linear_many({&one, 1}, x)[0];
}

at::Tensor Quantizer4Bit::grad_input(const SlotSpec& slot, const at::Tensor& dy, const Tensors& tensors) const {
  const at::ScalarType dtype = compute_dtype(dy.scalar_type());
  return dtype == dy.scalar_type() ? Quantizer::grad_input(slot, dy, tensors)
                                   : Quantizer::grad_input(slot, dy.to(dtype), tensors).to(dy.scalar_type());
}

// A row of the table at a time, straight into its place.
at::Tensor Quantizer4Bit::rows(const SlotSpec& slot, const at::Tensor& ids, const Tensors& tensors, at::ScalarType dtype) const {
  if (ids.is_cuda()) return Quantizer::rows(slot, ids, tensors, dtype);
  const Weight weight = view(slot, tensors);
  std::vector<int64_t> shape = ids.sizes().vec();
  shape.push_back(slot.in);
  at::Tensor out = at::empty(shape, at::TensorOptions().dtype(dtype));
  const at::Tensor flat = ids.contiguous();
  const int64_t* id = flat.const_data_ptr<int64_t>();
  char* data = static_cast<char*>(out.mutable_data_ptr());
  const int64_t row_bytes = slot.in * static_cast<int64_t>(out.element_size());
  for (int64_t i = 0; i < flat.numel(); ++i) {
    if (id[i] < 0 || id[i] >= slot.out) fail(ErrorCode::Data, "token id ", id[i], " is outside the vocabulary of ", slot.out);
    kernels().dequantize(weight, id[i] * slot.in, slot.in, kernel_dtype(dtype), data + i * row_bytes);
  }
  return out;
}

}  // namespace tenon::nf4
