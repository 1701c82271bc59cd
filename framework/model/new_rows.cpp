#include "model/new_rows.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/normal.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "model/random_init.h"

namespace tenon::host {

namespace {

constexpr double kCovarianceShare = 1e-9;  // transformers' epsilon
constexpr int64_t kPanelBytes = int64_t{8} << 20;

void for_each_panel(const at::Tensor& stored, const std::function<void(const at::Tensor& float_rows)>& visit) {
  const int64_t rows = stored.size(0), step = std::max<int64_t>(1, kPanelBytes / std::max<int64_t>(1, stored.size(1) * 4));
  for (int64_t first = 0; first < rows; first += step)
    visit(stored.narrow(0, first, std::min(step, rows - first)).to(at::kCPU, at::kFloat));
}

at::Tensor mean_of(const at::Tensor& stored) {
  at::Tensor sum = at::zeros({stored.size(1)}, at::kDouble);
  for_each_panel(stored, [&](const at::Tensor& rows) { sum.add_(at::sum(rows, {0}, false, at::kDouble)); });
  return sum.div_(static_cast<double>(stored.size(0))).to(at::kFloat);
}

}  // namespace

void draw_new_rows(const at::Tensor& weight, int64_t count, NewRows how, double range, const std::string& path) {
  const at::NoGradGuard no_grad;
  const int64_t rows = weight.size(0) - count, width = weight.size(1);
  at::Generator generator = at::detail::createCPUGenerator(stream_of(path + " (new rows)"));
  auto normal = [&](int64_t height, int64_t columns) { return at::empty({height, columns}, at::kFloat).normal_(0, 1, generator); };
  const at::Tensor target = weight.narrow(0, rows, count);
  if (how == NewRows::Normal || rows == 0) {
    target.copy_(normal(count, width).mul_(range));
    return;
  }
  const at::Tensor stored = weight.narrow(0, 0, rows), mean = mean_of(stored);
  at::Tensor drawn = mean.unsqueeze(0).expand({count, width}).clone();
  const double share = kCovarianceShare / static_cast<double>(rows);
  if (rows > width && count <= width) {
    // With C the rows less their mean and z standard normal, C^T z has the covariance C^T C, which is never formed.
    for_each_panel(stored, [&](const at::Tensor& panel) { drawn.addmm_(normal(count, panel.size(0)), panel - mean, 1, std::sqrt(share)); });
  } else if (rows > width) {
    at::Tensor covariance = at::zeros({width, width}, at::kFloat);
    for_each_panel(stored, [&](const at::Tensor& panel) {
      const at::Tensor centered = panel - mean;
      covariance.addmm_(centered.t(), centered, 1, 1.0 / static_cast<double>(rows));
    });
    const auto [factor, info] = at::linalg_cholesky_ex(covariance);
    if (info.item<int>() == 0) drawn.addmm_(normal(count, width), factor.t(), 1, std::sqrt(kCovarianceShare));
  }
  target.copy_(drawn);
}

}  // namespace tenon::host
