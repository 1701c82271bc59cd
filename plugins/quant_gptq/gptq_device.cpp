// Tensors on a GPU, for the kernels of gptq_cuda.h.
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include "gptq.h"
#include "gptq_cuda.h"
#include "tenon/device.h"

namespace tenon::gptq {

namespace {

cuda::Place place_of(const at::Tensor& t) { return {t.get_device(), current_cuda_stream(t.device())}; }

}  // namespace

at::Tensor Gptq::dequantize_on_device(const Weight& weight, const at::Tensor& codes, at::ScalarType dtype, int64_t first_row,
                                      int64_t last_row) const {
  const Dtype kind = kernel_dtype(dtype);
  at::Tensor out = at::empty({last_row - first_row, weight.cols}, codes.options().dtype(dtype));
  cuda::dequantize(weight, first_row, last_row, kind, out.mutable_data_ptr(), place_of(codes));
  return out;
}

// x takes the order of the codes, so that the weight is read and written in the order in which it lies.
std::vector<at::Tensor> Gptq::linear_on_device(std::span<const Operand> weights, const at::Tensor& x) const {
  const int64_t in = weights.front().slot->in, m = in > 0 ? x.numel() / in : 0;
  const Dtype kind = kernel_dtype(x.scalar_type());
  const at::Tensor plain = x.reshape({m, in}).contiguous();
  std::vector<int64_t> shape = x.sizes().vec();
  std::vector<at::Tensor> outputs;
  for (const Operand& w : weights) {
    const Tensors& tensors = *w.tensors;
    Weight weight = view(*w.slot, tensors);
    const at::Tensor input = weight.order ? plain.index_select(1, tensors[kOrder]) : plain;
    weight.order = nullptr;
    at::Tensor y;
    if (m > kFusedRows) {
      y = at::linear(input, dequantize_on_device(weight, tensors[kCodes], x.scalar_type(), 0, weight.rows));
    } else {
      y = at::empty({m, weight.rows}, x.options());
      cuda::multiply(weight, input.const_data_ptr(), kind, m, y.mutable_data_ptr(), place_of(x));
    }
    shape.back() = weight.rows;
    outputs.push_back(y.view(shape));
  }
  return outputs;
}

}  // namespace tenon::gptq
