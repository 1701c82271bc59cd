#pragma once
// Rows put together into the tensors of a batch.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace tenon::host {

// Right-padded to the longest row. Segments count the samples of a row from 1, 0 is padding; undefined when every row holds one sample and none is
// padded. Media are read here. Labels are kIgnore on padding and at the first token of each segment.
TrainBatch make_batch(const Dataset& set, std::span<const int64_t> rows);

// Tokens without padding.
int64_t token_count(const Dataset& set, std::span<const int64_t> rows);

// "a.jsonl:3, a.jsonl:17": the samples of some rows, at most `limit` of them.
std::string origins(const Dataset& set, std::span<const int64_t> rows, size_t limit = 8);

}  // namespace tenon::host
