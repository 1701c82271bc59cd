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

void Gptq::dequantize_on_device(const Weight& weight, int64_t first_row, int64_t last_row, at::Tensor out) {
  cuda::dequantize(weight, first_row, last_row, kernel_dtype(out.scalar_type()), out.mutable_data_ptr(), place_of(out));
}

// x takes the order of the codes, so that the weight is read and written in the order in which it lies.
at::Tensor Gptq::multiply_on_device(const Part& part, const at::Tensor& x) const {
  Weight weight = part.weight;
  const at::Tensor input = weight.order ? x.index_select(1, part.order) : x;
  weight.order = nullptr;
  if (x.size(0) > kFusedRows) {
    at::Tensor dense = at::empty({weight.rows, weight.cols}, x.options());
    dequantize_on_device(weight, 0, weight.rows, dense);
    return at::linear(input, dense);
  }
  at::Tensor y = at::empty({x.size(0), weight.rows}, x.options());
  cuda::multiply(weight, input.const_data_ptr(), kernel_dtype(x.scalar_type()), x.size(0), y.mutable_data_ptr(), place_of(x));
  return y;
}

}  // namespace tenon::gptq
