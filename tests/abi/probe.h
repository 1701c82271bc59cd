#pragma once
// One fixed sequence of calls to a quantizer, and what came of it as text: two hosts, or two days, agree when the texts are equal. Inputs are small
// integers over 8, so that sums of products are exact in whatever order a LibTorch adds.
#include <string>

#include "tenon/plugin.h"

namespace tenon::testing {

// A table from the name of each step to what it gave: bytes of tensors as SHA-256, errors as their text. Steps in which the host's own products
// of inexact numbers take part begin with "host ".
Value probe(const Provider<Quantizer>& provider, const Value& options);

}  // namespace tenon::testing
