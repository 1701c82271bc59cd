#pragma once
// Weights of a model that starts from config.json alone: normal with config's initializer_range for matrices and embeddings, zero biases,
// ones for norms, as transformers initialises. Each tensor has its own stream of numbers, so threads and order do not matter.
#include <string>

#include "tenon/slot.h"

namespace tenon::host {

at::Tensor initial_weight(const SlotSpec& slot, at::ScalarType dtype, double range, uint64_t seed);
// Ones for norms, normal for routers, convolutions and positions, zeros for the rest.
at::Tensor initial_dense(const DenseSpec& dense, at::ScalarType dtype, double range, uint64_t seed);

// The seed of a path's stream.
uint64_t stream_of(const std::string& path);

}  // namespace tenon::host
