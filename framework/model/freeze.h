#pragma once
// What train.freeze keeps as it is while the rest of a model trains.
#include <set>
#include <string>
#include <vector>

#include "tenon/blueprint.h"

namespace tenon::host {

// Paths of the slots and tensors that the names freeze. A name is a part of the model as its architecture calls it ("vision", "projector"; "language" for
// the rest of a model that has parts), a module as in quantizer.modules, or a regular expression that matches a whole path. What shares a weight freezes
// together. Error(Recipe) for names that match nothing, all of them together, and when nothing is left to train.
std::set<std::string> frozen_paths(const Blueprint& blueprint, const std::vector<std::string>& names);

}  // namespace tenon::host
