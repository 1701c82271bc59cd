#include "model/guards.h"

#include "plugins/breadcrumb.h"

namespace tenon::host {

namespace {

class GuardedModel final : public Model {
 public:
  GuardedModel(std::string name, std::unique_ptr<Model> model, bool head_in_float32)
      : name_(std::move(name)), model_(std::move(model)), head_in_float32_(head_in_float32) {
    for (const auto& stack : model_->blueprint().stacks)
      for (int64_t i = 0; i < stack.count; ++i) blocks_.push_back(concat(stack.path, ".", i));
  }

  const Blueprint& blueprint() const override { return model_->blueprint(); }
  Seams& seams() override { return model_->seams(); }
  State begin(const Batch& batch, Cache* cache) override {
    return call<State>("begin", "", [&] { return model_->begin(batch, cache); });
  }
  void run_block(int stack, int64_t i, State& state) override {
    call_plugin(name_, "run_block", path(stack, i), [&] { model_->run_block(stack, i, state); });
  }
  at::Tensor finish(State& state) override {
    return call<at::Tensor>("finish", "", [&] { return model_->finish(state); });
  }
  at::Tensor auxiliary_loss(const State& state) override {
    return call<at::Tensor>("auxiliary_loss", "", [&] { return model_->auxiliary_loss(state); });
  }
  at::Tensor logits(const at::Tensor& hidden) override {
    return call<at::Tensor>("logits", "", [&] { return model_->logits(for_head(hidden)); });
  }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override {
    return call<at::Tensor>("token_logprobs", "", [&] { return model_->token_logprobs(for_head(hidden), targets); });
  }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override {
    return call<std::unique_ptr<Cache>>("make_cache", "", [&] { return model_->make_cache(batch, capacity); });
  }

 private:
  at::Tensor for_head(const at::Tensor& hidden) const { return head_in_float32_ ? hidden.to(at::kFloat) : hidden; }
  template <class Result, class Body>
  Result call(const char* what, const std::string& subject, Body&& body) {
    Result result;
    call_plugin(name_, what, subject, [&] { result = body(); });
    return result;
  }
  const std::string& path(int stack, int64_t i) const {
    size_t at = static_cast<size_t>(i);
    for (int s = 0; s < stack; ++s) at += static_cast<size_t>(model_->blueprint().stacks[static_cast<size_t>(s)].count);
    return blocks_.at(at);
  }

  std::string name_;
  std::unique_ptr<Model> model_;
  bool head_in_float32_ = false;
  std::vector<std::string> blocks_;
};

class GuardedFiller final : public Filler {
 public:
  GuardedFiller(std::string name, std::string path, std::shared_ptr<Filler> filler)
      : name_(std::move(name)), path_(std::move(path)), filler_(std::move(filler)) {}

  std::string describe() const override { return filler_->describe(); }
  at::Tensor linear(const at::Tensor& x) override {
    return call("linear", [&] { return filler_->linear(x); });
  }
  std::vector<at::Tensor> linear_many(std::span<Filler* const> group, const at::Tensor& x) override {
    std::vector<Filler*> inner;
    for (Filler* filler : group)
      if (auto* own = dynamic_cast<GuardedFiller*>(filler)) inner.push_back(own->filler_.get());
    if (inner.size() != group.size()) return Filler::linear_many(group, x);
    std::vector<at::Tensor> outputs;
    call_plugin(name_, "linear_many", path_, [&] { outputs = filler_->linear_many(inner, x); });
    return outputs;
  }
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override {
    return call("rows", [&] { return filler_->rows(ids, dtype); });
  }
  at::Tensor grouped(const at::Tensor& x, const at::Tensor& offsets) override {
    return call("grouped", [&] { return filler_->grouped(x, offsets); });
  }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
    return call("dense_rows", [&] { return filler_->dense_rows(dtype, first, last); });
  }
  at::Tensor bias() const override { return filler_->bias(); }

 private:
  template <class Body>
  at::Tensor call(const char* what, Body&& body) const {
    at::Tensor result;
    call_plugin(name_, what, path_, [&] { result = body(); });
    return result;
  }

  std::string name_, path_;
  std::shared_ptr<Filler> filler_;
};

}  // namespace

std::unique_ptr<Model> guard_model(const std::string& name, std::unique_ptr<Model> model, bool head_in_float32) {
  return std::make_unique<GuardedModel>(name, std::move(model), head_in_float32);
}

std::shared_ptr<Filler> guard_filler(const std::string& name, const std::string& path, std::shared_ptr<Filler> filler) {
  return std::make_shared<GuardedFiller>(name, path, std::move(filler));
}

}  // namespace tenon::host
