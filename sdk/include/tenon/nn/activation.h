#pragma once
// Activation functions by the names that config files use.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "tenon/export.h"
#include "tenon/seams.h"

namespace tenon::nn {

TENON_API bool has_activation(const std::string& name);
TENON_API std::vector<std::string> activation_names();

// The default of the activation seam: act(gate) * up, or act(gate). Keeps gate and up alone for the backward pass.
// Error(Internal) for a name that has_activation() does not know.
TENON_API at::Tensor activate(const ActivationArgs& args);

}  // namespace tenon::nn
