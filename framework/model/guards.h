#pragma once
// A plugin's model, fillers and objective behind calls that carry its name: what they throw, and a crash in them, is told as theirs.
#include <memory>
#include <string>

#include "tenon/filler.h"
#include "tenon/model.h"

namespace tenon::host {

// Forwards every call. `name`: the provider's. With head_in_float32 the head sees the hidden state in float32.
std::unique_ptr<Model> guard_model(const std::string& name, std::unique_ptr<Model> model, bool head_in_float32 = false);

// The same for what an adapter has put around a slot. Group calls reach the inner filler when all of the group are guarded.
std::shared_ptr<Filler> guard_filler(const std::string& name, const std::string& path, std::shared_ptr<Filler> filler);

}  // namespace tenon::host
