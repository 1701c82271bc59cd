#include "model/precision.h"

namespace tenon::host {

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return "float32";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    case at::kDouble: return "float64";
    case at::kByte: return "uint8";
    case at::kChar: return "int8";
    case at::kInt: return "int32";
    case at::kLong: return "int64";
    default: return c10::toString(dtype);
  }
}

DtypePolicy resolve_dtypes(at::ScalarType model_dtype, Purpose purpose) {
  DtypePolicy policy;
  policy.precision.compute = model_dtype;
  policy.weights = policy.norms = policy.precision.residual = model_dtype;
  if (purpose == Purpose::Inference || model_dtype == at::kFloat) return policy;
  policy.norms = policy.precision.residual = at::kFloat;
  policy.notes.push_back("norm weights are float32: they are small, and their rounding would be repeated in every block");
  policy.notes.push_back("the hidden state between blocks is float32: its sums keep their precision");
  if (purpose == Purpose::FullTraining) {
    policy.weights = at::kFloat;
    policy.notes.push_back(concat("trained weights are float32, their products ", dtype_name(model_dtype),
                                  ": small updates would vanish in ", dtype_name(model_dtype)));
  } else {
    policy.notes.push_back("adapter weights are float32; embeddings and the output head stay as they are, being frozen");
  }
  return policy;
}

at::ScalarType resolve_model_dtype(const std::string& requested, const Value& config, at::ScalarType stored) {
  std::string name = requested;
  if (name == "auto") {
    for (const char* key : {"dtype", "torch_dtype"})
      if (const Value* value = config.find_set(key); value && value->is_string() && name == "auto") name = value->as_string();
    if (name == "auto") return stored;
    if (name.rfind("torch.", 0) == 0) name = name.substr(6);
  }
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16" || name == "half") return at::kHalf;
  if (name == "float32" || name == "float") return at::kFloat;
  fail(requested == "auto" ? ErrorCode::Data : ErrorCode::Recipe, "dtype '", name, "' is not one of bfloat16, float16, float32");
}

}  // namespace tenon::host
