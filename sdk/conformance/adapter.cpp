// Checks of adapters, around the slots of the toy model.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "memory_file.h"
#include "quantizer_kit.h"
#include "tenon/json.h"
#include "toy.h"

namespace tenon::conformance {

namespace {

// float32 products in another order of brackets: (W + BA)x against Wx + B(Ax).
constexpr double kSame = 2e-4;

// An adapter on a model of its own.
struct Wrapped {
  ToyModel toy;
  std::unique_ptr<Adapter> adapter;
  std::vector<std::string> targets;
  at::Tensor logits(const at::Tensor& ids) { return run_logits(*toy.model, {.ids = ids}); }
};

// The defaults, aimed at every linear slot where there is an option for that: PEFT's word for it, or the names one by one where it is not known.
Value aimed_options(Context& c) {
  const auto& provider = c.provider(&Registrar::adapters);
  const bool can_aim = std::any_of(provider.options.rows.begin(), provider.options.rows.end(),
                                   [](const OptionRow& row) { return row.name == "target_modules"; });
  const Blueprint blueprint = ToyArchitecture().blueprint(small_config("toy"));
  Value names = Value::list();
  for (const auto& slot : blueprint.slots)
    if (const std::string name = slot.path.substr(slot.path.rfind('.') + 1); slot.block == 0 && slot.kind == SlotKind::Linear)
      names.as_list().emplace_back(name);
  for (const Value& aim : {Value("all-linear"), names}) {
    const Value options(Value::Table{{"target_modules", aim}});
    if (!can_aim || !c.subject().option_problems(provider.options, options, c.provided().subject()).empty()) continue;
    try {
      if (!provider.make(options)->targets(blueprint).empty()) return options;
    } catch (const Error&) {
      // It takes the word for a name that this model has not.
    }
  }
  return Value::table();
}

// The plugin's examples, else those.
std::vector<Value> settings(Context& c) {
  std::vector<Value> all = c.examples();
  if (!all.empty()) return all;
  const Value options = aimed_options(c);
  const OptionTable& table = c.provider(&Registrar::adapters).options;
  all.push_back(options);
  // From level 2 on also each switch and choice moved alone.
  if (c.level() > 1)
    for (const auto& row : table.rows) {
      std::vector<Value> values = row.constraint.choices;
      if (row.type == "bool") values = {true, false};
      for (const Value& value : values)
        if (!(value == row.default_value)) {
          Value moved = options;
          moved.set(row.name, value);
          if (c.subject().option_problems(table, moved, c.provided().subject()).empty()) all.push_back(moved);
        }
    }
  return all;
}

Wrapped wrap(Context& c, const Value& options, bool trainable, const Value* saved_config = nullptr) {
  Wrapped w;
  w.toy = make_model(ToyArchitecture(), small_config("toy"), c.seed(), false);
  w.adapter = c.provider(&Registrar::adapters).make(options);
  expect(w.adapter != nullptr, "make returned nothing");
  if (saved_config) w.adapter->configure(*saved_config);
  w.targets = w.adapter->targets(w.toy.parts->blueprint());
  for (const auto& path : w.targets) {
    Slot& slot = w.toy.parts->slot(path);
    auto wrapped = w.adapter->wrap(slot.spec(), slot.filler_ptr(), at::kCPU, trainable);
    expect(wrapped != nullptr, "wrap of '", path, "' returned nothing");
    slot.fill(std::move(wrapped));
  }
  w.adapter->set_training(false);
  return w;
}

// Moves every parameter away from where it starts, so that the adapter does something.
void disturb(Adapter& adapter, uint64_t seed) {
  at::NoGradGuard no_grad;
  for (const auto& parameter : adapter.state())
    at::Tensor(parameter.tensor).add_(normal(parameter.tensor.sizes(), ++seed, at::kFloat, 0.05).to(parameter.tensor.scalar_type()));
}

void for_each_wrapped(Context& c, bool trainable, const std::function<void(Wrapped&, const Value&)>& body) {
  for (const Value& options : settings(c)) {
    const std::string label = options.as_table().empty() ? "defaults" : to_json(options);
    try {
      Wrapped w = wrap(c, options, trainable);
      body(w, options);
    } catch (const Failed& failure) {
      failed(label, ": ", failure.text);
    } catch (const std::exception& error) {
      failed(label, ": ", error.what());
    }
  }
}

at::Tensor ids_for(Context& c) { return random_ids(2, 7, 96, c.seed() + 77); }

void check_calls(Context& c) {
  for_each_wrapped(c, true, [&](Wrapped& w, const Value&) {
    expect(!w.targets.empty(), "targets() of a usual decoder names nothing");
    std::set<std::string> seen;
    for (const auto& path : w.targets) {
      expect(w.toy.parts->blueprint().find_slot(path) != nullptr, "targets() names '", path, "', which is no slot");
      expect(seen.insert(path).second, "targets() names '", path, "' twice");
    }
    expect(all_finite(w.logits(ids_for(c))), "logits with the adapter are not finite");
    expect(!w.toy.parts->slot(w.targets[0]).filler().describe().empty(), "describe() of a wrapped slot is empty");
  });
}

void check_zero_init(Context& c) {
  at::NoGradGuard no_grad;
  for_each_wrapped(c, true, [&](Wrapped& w, const Value&) {
    const ToyModel bare = make_model(ToyArchitecture(), small_config("toy"), c.seed(), false);
    const double off = relative_max(w.logits(ids_for(c)), run_logits(*bare.model, {.ids = ids_for(c)}));
    expect(off <= kSame, "a fresh adapter changes the logits by ", off, " of their size");
  });
}

void check_parameters(Context& c) {
  for_each_wrapped(c, true, [&](Wrapped& w, const Value& options) {
    std::multiset<std::string> promised, made;
    int64_t promised_count = 0, made_count = 0;
    for (const auto& path : w.targets)
      for (const auto& spec : w.adapter->parameters(w.toy.parts->slot(path).spec())) {
        promised.insert(spec.name + " " + shape_text(spec.shape));
        promised_count += spec.numel();
      }
    std::set<std::string> names;
    for (const auto& parameter : w.adapter->state()) {
      made.insert(parameter.name + " " + shape_text(parameter.tensor.sizes()));
      made_count += parameter.tensor.numel();
      expect(names.insert(parameter.name).second, "state() names '", parameter.name, "' twice");
      expect(parameter.tensor.is_leaf() && parameter.tensor.requires_grad(), "'", parameter.name, "' is no leaf that requires gradients");
    }
    expect(promised_count == made_count, "parameters() promises ", promised_count, " trainable numbers, state() has ", made_count);
    expect(promised == made, "parameters() and state() differ in names or shapes");
    Wrapped frozen = wrap(c, options, false);
    for (const auto& parameter : frozen.adapter->state())
      expect(!parameter.tensor.requires_grad(), "'", parameter.name, "' requires gradients, wrapped with trainable = false");
  });
}

void check_gradient(Context& c) {
  for_each_wrapped(c, true, [&](Wrapped& w, const Value&) {
    disturb(*w.adapter, c.seed());
    const at::Tensor ids = ids_for(c), direction = normal({2, 7, 96}, c.seed() + 5);
    auto value = [&] { return (w.logits(ids) * direction).sum(); };
    value().backward();
    const auto state = w.adapter->state();
    std::vector<at::Tensor> steps;
    double promised = 0, size = 0;
    for (size_t i = 0; i < state.size(); ++i) {
      const at::Tensor grad = state[i].tensor.grad();
      expect(grad.defined(), "no gradient reaches '", state[i].name, "'");
      expect(all_finite(grad) && grad.abs().max().item<float>() > 0, "the gradient of '", state[i].name, "' is zero or not finite");
      // Along the gradient's own signs, so that the slope is no small difference of large numbers.
      steps.push_back(grad.sign() * normal(grad.sizes(), c.seed() + 100 + i).abs());
      promised += (grad.to(at::kDouble) * steps.back().to(at::kDouble)).sum().item<double>();
      size = std::max(size, std::abs(promised));
    }
    at::NoGradGuard no_grad;
    constexpr double kStep = 1e-3;
    auto moved = [&](double by) {
      for (size_t i = 0; i < state.size(); ++i) at::Tensor(state[i].tensor).add_(steps[i], by);
      const double at_there = value().to(at::kDouble).item<double>();
      for (size_t i = 0; i < state.size(); ++i) at::Tensor(state[i].tensor).sub_(steps[i], by);
      return at_there;
    };
    const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep);
    // Second-order terms and float32 rounding of the sums; a wrong factor or sign is far above.
    expect(std::abs(slope - promised) <= 0.05 * size, "along a direction the output changes by ", slope, ", the gradients say ", promised);
  });
}

void check_enabled(Context& c) {
  at::NoGradGuard no_grad;
  for_each_wrapped(c, true, [&](Wrapped& w, const Value&) {
    disturb(*w.adapter, c.seed());
    const ToyModel bare = make_model(ToyArchitecture(), small_config("toy"), c.seed(), false);
    const at::Tensor base = run_logits(*bare.model, {.ids = ids_for(c)}), on = w.logits(ids_for(c));
    expect(relative_max(on, base) > 10 * kSame, "with its parameters moved the adapter changes nothing");
    w.adapter->set_enabled(false);
    const double off = relative_max(w.logits(ids_for(c)), base);
    expect(off <= kSame, "switched off, the adapter still changes the logits by ", off);
    w.adapter->set_enabled(true);
    expect(same_bytes(w.logits(ids_for(c)), on), "switched off and on again, it computes something else");
  });
}

void check_merge(Context& c) {
  at::NoGradGuard no_grad;
  for_each_wrapped(c, true, [&](Wrapped& w, const Value&) {
    disturb(*w.adapter, c.seed());
    for (const auto& path : w.targets) {
      Slot& slot = w.toy.parts->slot(path);
      const SlotSpec& spec = slot.spec();
      if (spec.kind != SlotKind::Linear) continue;
      const at::Tensor base = w.toy.parts->original(path).weight().detach(), kept = base.clone();
      const at::Tensor merged = w.adapter->merge(spec, base);
      expect(same_bytes(base, kept), "merge() wrote to the base weight of '", path, "': it could not be taken out again");
      expect(merged.sizes() == base.sizes() && merged.scalar_type() == at::kFloat, "merge() of '", path, "' gives ",
             shape_text(merged.sizes()));
      const at::Tensor x = normal({5, spec.in}, c.seed() + 3);
      const double off = relative_max(at::linear(x, merged, slot.filler().bias()), slot.linear(x));
      expect(off <= kSame, "'", path, "': a product with the merged weight differs from the adapter's by ", off);
      const double rows = relative_max(slot.filler().dense_rows(at::kFloat, 0, spec.out), merged);
      expect(rows <= kSame, "'", path, "': dense_rows() differs from merge() by ", rows);
    }
  });
}

void check_save_load(Context& c) {
  at::NoGradGuard no_grad;
  for_each_wrapped(c, true, [&](Wrapped& w, const Value& options) {
    disturb(*w.adapter, c.seed());
    std::vector<NamedTensor> saved;
    for (const auto& parameter : w.adapter->state()) saved.push_back({parameter.name, parameter.tensor.detach().clone()});
    const Value config = parse_json(to_json(w.adapter->config("base")), "config()");
    Wrapped again = wrap(c, options, false, &config);
    expect(again.targets == w.targets, "made from its saved config, it has other targets");
    again.adapter->load(MemoryFile(saved));
    expect(same_bytes(again.logits(ids_for(c)), w.logits(ids_for(c))), "saved and loaded, the adapter computes something else");
    auto must_fail = [&](const std::vector<NamedTensor>& tensors, const std::string& name, const char* what) {
      Wrapped fresh = wrap(c, options, false, &config);
      try {
        fresh.adapter->load(MemoryFile(tensors));
      } catch (const Error& error) {
        expect(std::string(error.what()).find(name) != std::string::npos, "a file with ", what, " gave '", error.what(),
               "', which does not name '", name, "'");
        return;
      }
      failed("a file with ", what, " was no error");
    };
    std::vector<NamedTensor> missing(saved.begin() + 1, saved.end()), extra = saved;
    extra.push_back({"no.such.tensor", saved[0].tensor});
    must_fail(missing, saved[0].name, "a tensor missing");
    must_fail(extra, "no.such.tensor", "a tensor too many");
  });
}

void check_base_unchanged(Context& c) {
  for_each_wrapped(c, true, [&](Wrapped& w, const Value&) {
    std::vector<at::Tensor> before;
    for (const auto& [name, leaf] : w.toy.parts->leaves()) before.push_back(leaf.detach().clone());
    w.adapter->set_training(true);
    disturb(*w.adapter, c.seed());
    w.logits(ids_for(c)).sum().backward();
    const auto after = w.toy.parts->leaves();
    for (size_t i = 0; i < after.size(); ++i) {
      expect(same_bytes(after[i].second.detach(), before[i]), "the base weight '", after[i].first, "' was written to");
      expect(!after[i].second.grad().defined(), "the frozen weight '", after[i].first, "' got a gradient");
    }
  });
}

}  // namespace

std::vector<Check> adapter_checks() {
  constexpr const char* kBase = "adapter.calls";
  return {
      {kBase, 1, "load.names options.defaults", "The least an adapter must do: find its targets, wrap them, compute.", check_calls},
      {"adapter.zero_init", 1, kBase, "Training must start from the model that was loaded, not from a disturbed one.", check_zero_init},
      {"adapter.parameters", 1, kBase, "The plan's bytes and the optimizer's are those that parameters() promises.", check_parameters},
      {"adapter.gradient", 1, kBase, "A wrong gradient trains something else; none trains nothing.", check_gradient},
      {"adapter.enabled", 1, kBase, "Preference objectives switch adapters off to ask the reference model.", check_enabled},
      {"adapter.merge", 1, kBase, "A merged model must answer as the adapter did, and the base weight stay as it was.", check_merge},
      {"adapter.save_load", 1, kBase, "What was trained must come back from its files, and a file that does not fit be an error.",
       check_save_load},
      {"adapter.base_unchanged", 1, kBase, "The base is shared by all adapters and frozen: none may write to it.", check_base_unchanged},
  };
}

}  // namespace tenon::conformance
