#pragma once
// What training would see: the answer of `host data`.
#include <string>

#include "data/dataset.h"
#include "tenon/value.h"

namespace tenon::host {

struct DataReport {
  std::string text;
  Value json;  // {train: {...}, eval: {...}, samples: [{origin, ids, labels, tokens}]}
};

// train and eval may be null. The first `limit` training samples (those of eval when there is no training set) are shown token by token. text: may be
// null, then spellings are left out.
DataReport data_report(const Dataset* train, const Dataset* eval, const TextCodec* text, int64_t limit);

// One line for the log: "699 samples, 120,331 tokens (61 % trained) in 122 rows of 1024".
std::string summary_line(const Dataset& set);

}  // namespace tenon::host
