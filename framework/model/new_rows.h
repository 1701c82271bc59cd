#pragma once
// The rows of a grown vocabulary (tenon/new_rows.h): drawn from the rows that the checkpoint has, always the same for the same weight.
#include <ATen/core/Tensor.h>

#include <string>

#include "tenon/new_rows.h"

namespace tenon::host {

// Fills the last `count` rows of weight [rows, width], whose other rows are in. Mean: their mean plus noise with 1e-9 of their covariance (of
// fewer rows than columns, whose covariance is singular: the mean itself); Normal: deviation `range`. `path` chooses the stream of numbers.
void draw_new_rows(const at::Tensor& weight, int64_t count, NewRows how, double range, const std::string& path);

}  // namespace tenon::host
