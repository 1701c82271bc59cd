#include "int8_device.h"

namespace tenon::int8 {

using namespace stable;

cuda::Place place_of(const Tensor& t) { return {t.get_device_index(), current_cuda_stream(t.get_device_index())}; }

Tensors multiply_on_device(const std::vector<Weight>& weights, const Tensor& x, std::vector<int64_t> shape, double threshold) {
  const int64_t rows = x.size(0), cols = x.size(1), stride = row_stride(cols);
  const Device device = x.device();
  const Tensor codes = ops::empty({rows, stride}, kChar, device), scales = ops::empty({rows}, kFloat, device);
  // Marks, the list of outlier columns and its length.
  const int64_t marks = cuda::mark_words(cols);
  const Tensor outliers = ops::empty({marks + cols + 1}, kInt, device);
  auto* words = static_cast<int32_t*>(outliers.mutable_data_ptr());
  const cuda::Input input{.x = x.const_data_ptr(),
                          .dtype = kernel_dtype(x.scalar_type()),
                          .rows = rows,
                          .cols = cols,
                          .stride = stride,
                          .threshold = static_cast<float>(threshold),
                          .codes = static_cast<int8_t*>(codes.mutable_data_ptr()),
                          .scales = static_cast<float*>(scales.mutable_data_ptr()),
                          .marks = reinterpret_cast<uint32_t*>(words),
                          .columns = words + marks,
                          .count = words + marks + cols};
  const cuda::Place place = place_of(x);
  cuda::quantize_activation(input, place);
  Tensors outputs;
  for (const Weight& weight : weights) {
    shape.back() = weight.rows;
    outputs.push_back(ops::empty(shape, x.scalar_type(), device));
    cuda::multiply(weight, input, outputs.back().mutable_data_ptr(), input.dtype, place);
  }
  return outputs;
}

}  // namespace tenon::int8
