#pragma once
// Names of dtypes in files: "BF16" in safetensors, "bfloat16" in config.json.
#include <c10/core/ScalarType.h>

#include <optional>
#include <string_view>

namespace tenon::host {

// nullopt for names that LibTorch has no type of its own for.
std::optional<at::ScalarType> dtype_from_safetensors(std::string_view name);
// "" for types that the format cannot hold.
std::string_view safetensors_name(at::ScalarType dtype);
// "bfloat16", as transformers writes it into config.json; "" for types that it does not name.
std::string_view config_name(at::ScalarType dtype);

}  // namespace tenon::host
