#include "model/guards.h"

#include <ATen/ops/ones.h>

#include <stdexcept>

#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {

// Counts the fillers that reach it in one call; fails where it is told to.
class Probe final : public Filler {
 public:
  explicit Probe(bool throws = false) : throws_(throws) {}
  std::string describe() const override { return "probe"; }
  at::Tensor linear(const at::Tensor& x) override {
    if (throws_) throw std::runtime_error("boom");
    return x;
  }
  std::vector<at::Tensor> linear_many(std::span<Filler* const> group, const at::Tensor& x) override {
    for (Filler* filler : group) own += dynamic_cast<Probe*>(filler) != nullptr;
    return std::vector<at::Tensor>(group.size(), x);
  }
  at::Tensor dense_rows(at::ScalarType, int64_t, int64_t) const override { return {}; }
  int own = 0;

 private:
  bool throws_;
};

}  // namespace

TEST_CASE("what an adapter's filler throws names the adapter, the call and the slot") {
  const auto filler = guard_filler("mine", "model.layers.3.mlp.up_proj", std::make_shared<Probe>(true));
  CHECK_THROWS_WITH_AS(filler->linear(at::ones({1})), "plugin mine: linear model.layers.3.mlp.up_proj: boom", Error);
}

TEST_CASE("fillers of one adapter still meet in one call, others go one by one") {
  const auto probe = std::make_shared<Probe>();
  const auto first = guard_filler("mine", "a", probe), second = guard_filler("mine", "b", std::make_shared<Probe>());
  const std::vector<Filler*> guarded = {first.get(), second.get()};
  CHECK(first->linear_many(guarded, at::ones({1})).size() == 2);
  CHECK(probe->own == 2);
  Probe bare;
  const std::vector<Filler*> mixed = {first.get(), &bare};
  CHECK(first->linear_many(mixed, at::ones({1})).size() == 2);
  CHECK(probe->own == 2);
}
