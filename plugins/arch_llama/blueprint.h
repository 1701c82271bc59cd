#pragma once
// The slots and tensors of a decoder, from its config.
#include "families.h"
#include "tenon/blueprint.h"

namespace tenon::llama {

Blueprint make_blueprint(const DecoderConfig& config);

}  // namespace tenon::llama
