#pragma once
// The dtype policy: which numbers a run computes in and which tensors it keeps in what. One pure function; docs/precision.md states it in prose.
//
//                       frozen weights   norm weights   residual   compute   trained tensors
//   inference           model.dtype      model.dtype    = dtype    = dtype   -
//   adapters, training  model.dtype      float32        float32    = dtype   float32
//   full training       -                float32        float32    = dtype   float32 (products cast to compute)
#include <string>
#include <vector>

#include "tenon/model.h"
#include "tenon/value.h"

namespace tenon::host {

enum class Purpose { Inference, AdapterTraining, FullTraining };

struct DtypePolicy {
  Precision precision;
  at::ScalarType weights = at::kFloat;  // dense slots
  at::ScalarType norms = at::kFloat;    // and other dense tensors
  bool head_in_float32 = false;         // its product, whatever compute is: a patch asked for it
  std::vector<std::string> notes;       // what differs from model.dtype, and why
};

DtypePolicy resolve_dtypes(at::ScalarType model_dtype, Purpose purpose);

// "bfloat16" | "float16" | "float32"; `auto` asks config.json (dtype, torch_dtype), then `stored`, the dtype of the checkpoint's weights.
at::ScalarType resolve_model_dtype(const std::string& requested, const Value& config, at::ScalarType stored);
const char* dtype_name(at::ScalarType dtype);  // "bfloat16", "uint8", ...

}  // namespace tenon::host
