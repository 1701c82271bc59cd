// In place of gptq_cuda.cu where there is no nvcc.
#include <stdexcept>

#include "gptq_cuda.h"

namespace tenon::gptq::cuda {
namespace {

[[noreturn]] void refuse() { throw std::runtime_error("built without CUDA"); }

}  // namespace

bool is_built() { return false; }

void dequantize(const Weight&, std::int64_t, std::int64_t, Dtype, void*, Place) { refuse(); }
void multiply(const Weight&, const void*, Dtype, std::int64_t, void*, Place) { refuse(); }

}  // namespace tenon::gptq::cuda
