#include "nf4.h"

#include <algorithm>
#include <numeric>

#include "nf4_cuda.h"
#include "tenon/stable/ops.h"

namespace tenon::nf4 {

namespace {

constexpr int64_t kFusedRows = 16;  // batches up to this size multiply straight from the codes
constexpr int64_t kDequantizeGrain = 1 << 14;
constexpr int64_t kPanelBytes = int64_t{64} << 20;
constexpr int64_t kMultiplyGrain = 32;  // weight rows; a thread's least share

Dtype kernel_dtype(ScalarType dtype) {
  switch (dtype) {
    case kFloat: return Dtype::F32;
    case kBFloat16: return Dtype::Bf16;
    case kHalf: return Dtype::F16;
    default:
      fail(ErrorCode::Plugin, "4-bit weights are made from float32, bfloat16 or float16, found ", torch::headeronly::toString(dtype));
  }
}

ScalarType named_dtype(const std::string& name) { return name == "float32" ? kFloat : name == "float16" ? kHalf : kBFloat16; }

// Of experts a row is one of them.
int64_t row_elements(const SlotSpec& slot) { return slot.kind == SlotKind::Experts ? slot.out * slot.in : slot.in; }
int64_t blocks_of(const SlotSpec& slot, int64_t block) { return block_count(slot.numel(), block); }

cuda::Place place_of(const Tensor& t) { return {t.get_device_index(), current_cuda_stream(t.get_device_index())}; }

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
          .devices = cuda::is_built() ? std::vector<DeviceType>{kCPU, kCUDA} : std::vector<DeviceType>{kCPU},
          .max_relative_error = codebook_ == Codebook::Nf4 ? 0.15 : 0.25};
}

std::vector<TensorSpec> Quantizer4Bit::resident(const SlotSpec& slot) const {
  const int64_t blocks = blocks_of(slot, options_.block_size);
  std::vector<TensorSpec> specs{{"codes", {code_bytes(slot.numel()), 1}, kByte}};
  if (!options_.double_quant) {
    specs.push_back({"absmax", {blocks}, kFloat});
  } else {
    specs.push_back({"absmax", {blocks}, kByte});
    specs.push_back({"nested_absmax", {block_count(blocks, kNestedBlock)}, kFloat});
    specs.push_back({"nested_offset", {}, kFloat});
  }
  return specs;
}

int64_t Quantizer4Bit::row_granule(const SlotSpec& slot) const {
  return options_.block_size / std::gcd(row_elements(slot), options_.block_size);
}

Tensors Quantizer4Bit::begin(const SlotSpec& slot, Device device) const {
  return {ops::empty({code_bytes(slot.numel()), 1}, kByte, device), ops::empty({blocks_of(slot, options_.block_size)}, kFloat, device)};
}

void Quantizer4Bit::quantize_rows(const SlotSpec& slot, const Tensor& rows, int64_t first_row, Tensors& work) const {
  const Tensor source = ops::contiguous(rows);
  const int64_t begin = first_row * row_elements(slot);
  uint8_t* codes = work[kCodesTensor].mutable_data_ptr<uint8_t>() + begin / 2;
  float* absmax = work[kAbsmax].mutable_data_ptr<float>() + begin / options_.block_size;
  if (source.is_cuda()) {
    cuda::quantize(source.const_data_ptr(), kernel_dtype(source.scalar_type()), source.numel(), codebook_,
                   static_cast<int32_t>(options_.block_size), codes, absmax, place_of(source));
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
  const Device device = work[kAbsmax].device();
  // The absmax values are few: their second quantization runs on the host, in the one order that the stored offset depends on.
  const Tensor absmax = ops::cpu(work[kAbsmax]);
  const Tensor codes = ops::empty({blocks}, kByte), nested = ops::empty({block_count(blocks, kNestedBlock)}, kFloat),
               offset = ops::empty({}, kFloat);
  *offset.mutable_data_ptr<float>() = mean_absmax(absmax.const_data_ptr<float>(), blocks);
  quantize_absmax(absmax.const_data_ptr<float>(), blocks, *offset.const_data_ptr<float>(), codes.mutable_data_ptr<uint8_t>(),
                  nested.mutable_data_ptr<float>());
  return {work[kCodesTensor], ops::to(codes, device), ops::to(nested, device), ops::to(offset, device)};
}

Tensors Quantizer4Bit::quantize(const SlotSpec& slot, const Tensor& weight, const Observer*) const {
  Tensors work = begin(slot, weight.device());
  quantize_rows(slot, weight, 0, work);
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
           .rows = slot.count * slot.out,
           .cols = slot.in};
  if (options_.double_quant) {
    w.absmax_codes = tensors[kAbsmax].const_data_ptr<uint8_t>();
    w.nested_absmax = tensors[kNested].const_data_ptr<float>();
    const auto* offset = tensors[kOffset].const_data_ptr<float>();
    if (tensors[kOffset].is_cuda())
      w.nested_offset_at = offset;
    else
      w.nested_offset = *offset;
  } else {
    w.absmax = tensors[kAbsmax].const_data_ptr<float>();
  }
  return w;
}

ScalarType Quantizer4Bit::compute_dtype(ScalarType x) const {
  return options_.compute_dtype == "auto" ? x : named_dtype(options_.compute_dtype);
}

Tensor Quantizer4Bit::dequantize(const SlotSpec& slot, const Tensors& tensors, ScalarType dtype, int64_t first_row,
                                 int64_t last_row) const {
  const Weight weight = view(slot, tensors);
  std::vector<int64_t> shape{last_row - first_row, slot.in};
  if (slot.kind == SlotKind::Experts) shape.insert(shape.begin() + 1, slot.out);
  const Tensor out = ops::empty(shape, dtype, tensors[kCodesTensor].device());
  const int64_t begin = first_row * row_elements(slot);
  if (out.is_cuda()) {
    cuda::dequantize(weight, begin, out.numel(), kernel_dtype(dtype), out.mutable_data_ptr(), place_of(out));
    return out;
  }
  char* data = static_cast<char*>(out.mutable_data_ptr());
  const int64_t element = static_cast<int64_t>(out.element_size());
  parallel_for(out.numel(), kDequantizeGrain, [&](int64_t from, int64_t to) {
    kernels().dequantize(weight, begin + from, to - from, kernel_dtype(dtype), data + from * element);
  });
  return out;
}

Tensors Quantizer4Bit::linear_many(const std::vector<Operand>& weights, const Tensor& x) const {
  const ScalarType given = x.scalar_type(), dtype = compute_dtype(given);
  const int64_t in = weights.front().slot->in, m = in > 0 ? x.numel() / in : 0;
  if ((m > kFusedRows || m == 0) && dtype == given) return Quantizer::linear_many(weights, x);
  const Tensor flat = ops::contiguous(ops::to(ops::reshape(x, {m, in}), dtype));
  Tensors outputs;
  std::vector<int64_t> shape = ops::shape_of(x);
  auto shaped = [&](const Tensor& y) {
    shape.back() = y.size(-1);
    return ops::to(ops::reshape(y, shape), given);
  };
  if (m > kFusedRows || m == 0) {
    for (const Operand& w : weights) outputs.push_back(shaped(ops::linear(flat, dequantize(*w.slot, *w.tensors, dtype, 0, w.slot->out))));
    return outputs;
  }
  std::vector<Weight> views;
  std::vector<int64_t> starts{0};
  for (const Operand& w : weights) {
    views.push_back(view(*w.slot, *w.tensors));
    outputs.push_back(ops::empty({m, w.slot->out}, dtype, flat.device()));
    starts.push_back(starts.back() + w.slot->out);
  }
  if (flat.is_cuda()) {
    for (size_t i = 0; i < views.size(); ++i)
      cuda::multiply(views[i], flat.const_data_ptr(), kernel_dtype(dtype), m, outputs[i].mutable_data_ptr(), place_of(flat));
  } else {
    const Kernels& k = kernels();
    const Tensor packed = ops::empty({static_cast<int64_t>(k.activation_bytes(views[0], kernel_dtype(dtype), m))}, kByte);
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

Tensor Quantizer4Bit::linear(const SlotSpec& slot, const Tensor& x, const Tensors& tensors) const {
  return linear_many({Operand{&slot, &tensors}}, x)[0];
}

// Experts with few tokens are multiplied from their codes, all in one loop over rows; the others from their dense weight, one after another.
Tensor Quantizer4Bit::grouped(const SlotSpec& slot, const Tensor& x, const Tensor& offsets, const Tensors& tensors) const {
  if (x.is_cuda()) return Quantizer::grouped(slot, x, offsets, tensors);
  const ScalarType given = x.scalar_type(), dtype = compute_dtype(given);
  // Where nearly every expert has many, all by the host's dense product, which knows what this processor does best.
  if (dtype == given && x.size(0) > 2 * kFusedRows * slot.count) return Quantizer::grouped(slot, x, offsets, tensors);
  const Tensor flat = ops::contiguous(ops::to(x, dtype));
  const Tensor y = ops::empty({x.size(0), slot.out}, dtype);
  const int64_t* bound = offsets.const_data_ptr<int64_t>();
  const int64_t element = static_cast<int64_t>(y.element_size());
  const Weight weight = view(slot, tensors);
  const Kernels& k = kernels();
  struct Share {
    int64_t expert, tokens;
    Tensor packed;
    char* y;  // where the weight's row 0 would be: rows are counted over all experts
  };
  std::vector<Share> shares;
  for (int64_t e = 0; e < slot.count; ++e) {
    const int64_t tokens = bound[e + 1] - bound[e];
    if (tokens == 0) continue;
    const Tensor part = ops::narrow(flat, 0, bound[e], tokens);
    if (tokens > kFusedRows) {
      const Tensor dense = ops::reshape(dequantize(slot, tensors, dtype, e, e + 1), {slot.out, slot.in});
      ops::copy(ops::narrow(y, 0, bound[e], tokens), ops::linear(part, dense));
      continue;
    }
    const Tensor packed = ops::empty({static_cast<int64_t>(k.activation_bytes(weight, kernel_dtype(dtype), tokens))}, kByte);
    k.pack_activation(weight, part.const_data_ptr(), kernel_dtype(dtype), tokens, slot.in, packed.mutable_data_ptr());
    shares.push_back({e, tokens, packed, static_cast<char*>(y.mutable_data_ptr()) + (bound[e] - e) * slot.out * element});
  }
  parallel_for(static_cast<int64_t>(shares.size()) * slot.out, kMultiplyGrain, [&](int64_t from, int64_t to) {
    for (int64_t i = from / std::max<int64_t>(1, slot.out); i < static_cast<int64_t>(shares.size()); ++i) {
      const Share& share = shares[static_cast<size_t>(i)];
      const int64_t first = std::max(from - i * slot.out, int64_t{0}), last = std::min(to - i * slot.out, slot.out);
      if (first >= last) break;
      k.multiply(weight, share.packed.const_data_ptr(), kernel_dtype(dtype), share.tokens, share.expert * slot.out + first,
                 share.expert * slot.out + last, share.y, kernel_dtype(dtype), slot.out);
    }
  });
  return ops::to(y, given);
}

// In compute_dtype where that is another than dy's; the dense weight in panels of rows, as the host's default has it.
Tensor Quantizer4Bit::grad_input(const SlotSpec& slot, const Tensor& dy, const Tensors& tensors) const {
  const ScalarType given = dy.scalar_type(), dtype = compute_dtype(given);
  if (dtype == given) return Quantizer::grad_input(slot, dy, tensors);
  const Tensor from = ops::to(dy, dtype);
  const int64_t row_bytes = slot.in * static_cast<int64_t>(from.element_size());
  const int64_t panel = std::clamp<int64_t>(kPanelBytes / std::max<int64_t>(1, row_bytes), 1, std::max<int64_t>(1, slot.out));
  std::optional<Tensor> dx;
  for (int64_t first = 0; first < slot.out; first += panel) {
    const int64_t last = std::min(slot.out, first + panel);
    const Tensor part = ops::matmul(ops::narrow(from, -1, first, last - first), dequantize(slot, tensors, dtype, first, last));
    dx = dx ? ops::add(*dx, part) : part;
  }
  return ops::to(*dx, given);
}

// A row of the table at a time, straight into its place.
Tensor Quantizer4Bit::rows(const SlotSpec& slot, const Tensor& ids, const Tensors& tensors, ScalarType dtype) const {
  if (ids.is_cuda()) return Quantizer::rows(slot, ids, tensors, dtype);
  const Weight weight = view(slot, tensors);
  std::vector<int64_t> shape = ops::shape_of(ids);
  shape.push_back(slot.in);
  const Tensor out = ops::empty(shape, dtype);
  const Tensor flat = ops::contiguous(ids);
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
