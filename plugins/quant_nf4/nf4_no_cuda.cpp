// In place of nf4_cuda.cu where there is no nvcc.
#include <stdexcept>

#include "nf4_cuda.h"

namespace tenon::nf4::cuda {
namespace {

[[noreturn]] void refuse() { throw std::runtime_error("built without CUDA"); }

}  // namespace

bool is_built() { return false; }

void quantize(const void*, Dtype, std::int64_t, Codebook, std::int32_t, std::uint8_t*, float*, Place) { refuse(); }
void quantize_absmax(const float*, std::int64_t, float, std::uint8_t*, float*, Place) { refuse(); }
void dequantize_absmax(const std::uint8_t*, const float*, float, std::int64_t, float*, Place) { refuse(); }
void dequantize(const Weight&, std::int64_t, std::int64_t, Dtype, void*, Place) { refuse(); }
void multiply(const Weight&, const void*, Dtype, std::int64_t, void*, Place) { refuse(); }

}  // namespace tenon::nf4::cuda
