#pragma once
// Reads one weight of the model, row range by row range, out of the file tensors that its Source names.
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "tenon/slot.h"

namespace tenon::host {

// Rows are those of dimension 0 of the weight: of a stack its members. Thread-safe; refers to the checkpoint.
class SourceReader {
 public:
  // `shape` is the weight's. Error(Data) when the pieces do not make it up.
  SourceReader(const Checkpoint& checkpoint, Source source, std::vector<int64_t> shape);

  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t rows() const { return shape_.empty() ? 1 : shape_[0]; }
  // What the pieces are stored in; of different ones, what holds them all.
  at::ScalarType dtype() const { return dtype_; }

  // Rows [first, last): over the mapped file, not to be written to, where one piece covers them in dtype(); else a copy.
  at::Tensor read(int64_t first, int64_t last) const;
  void release(int64_t first, int64_t last) const;
  void will_need(int64_t first, int64_t last) const;

 private:
  struct Part {
    std::string tensor;
    int64_t row = 0, rows = 0;      // of the weight; of a stack the member, which several parts may share
    int64_t start = 0, length = 0;  // of the file tensor
  };
  void for_each_part(int64_t first, int64_t last, const std::function<void(const Part&, int64_t from, int64_t to)>& visit) const;

  const Checkpoint& checkpoint_;
  bool stack_ = false;
  std::vector<Part> parts_;
  std::vector<int64_t> shape_;
  at::ScalarType dtype_ = at::kFloat;
};

}  // namespace tenon::host
