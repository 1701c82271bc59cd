#pragma once
// The slots and tensors of an lfm2, from its config.
#include "config.h"
#include "tenon/blueprint.h"

namespace tenon::lfm2 {

Blueprint make_blueprint(const Config& config);

}  // namespace tenon::lfm2
