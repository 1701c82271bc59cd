// In place of int8_cuda.cu where there is no nvcc.
#include <stdexcept>

#include "int8_cuda.h"

namespace tenon::int8::cuda {
namespace {

[[noreturn]] void refuse() { throw std::runtime_error("built without CUDA"); }

}  // namespace

bool is_built() { return false; }

void quantize_rows(const void*, Dtype, std::int64_t, std::int64_t, std::int8_t*, float*, Place) { refuse(); }
void quantize_activation(const Input&, Place) { refuse(); }
void multiply(const Weight&, const Input&, void*, Dtype, Place) { refuse(); }
void accumulate(const Weight&, const Input&, std::int32_t*, Place) { refuse(); }
void dequantize(const Weight&, std::int64_t, std::int64_t, Dtype, void*, Place) { refuse(); }
void gather_rows(const Weight&, const std::int64_t*, std::int64_t, Dtype, void*, Place) { refuse(); }

}  // namespace tenon::int8::cuda
