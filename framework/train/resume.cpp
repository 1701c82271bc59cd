#include "train/resume.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/safetensors.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

constexpr const char* kCounters = "trainer_state.json";
constexpr const char* kTensors = "trainer_state.safetensors";

// The generators that the trained tensors' devices draw from, the CPU's first.
std::vector<std::pair<std::string, at::Generator>> generators(const AdamW& optimizer) {
  std::vector<std::pair<std::string, at::Generator>> all{{"generator.cpu", at::detail::getDefaultCPUGenerator()}};
  std::set<std::string> seen;
  for (const auto& parameter : optimizer.parameters()) {
    const at::Device device = parameter.tensor.device();
    if (!device.is_cpu() && seen.insert(device.str()).second)
      all.emplace_back("generator." + device.str(), at::globalContext().defaultGenerator(device));
  }
  return all;
}

}  // namespace

int64_t checkpoint_step(const fs::path& folder) {
  const std::string name = folder.filename().string(), prefix = "checkpoint-";
  if (!name.starts_with(prefix)) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [rest, problem] = std::from_chars(name.data() + prefix.size(), end, step);
  return problem == std::errc() && rest == end ? step : -1;
}

void save_training_state(const fs::path& folder, const AdamW& optimizer, const Value& counters) {
  std::vector<NamedTensor> tensors = optimizer.tensors();
  for (auto& [name, generator] : generators(optimizer)) {
    const std::lock_guard lock(generator.mutex());
    tensors.push_back({name, generator.get_state()});
  }
  write_safetensors(folder / kTensors, tensors);
  write_file(folder / kCounters, to_json(counters, 2) + "\n");
}

fs::path find_resume_point(const fs::path& folder) {
  fs::path newest;
  std::error_code absent;
  for (const auto& entry : fs::directory_iterator(folder, absent))
    if (checkpoint_step(entry.path()) > (newest.empty() ? -1 : checkpoint_step(newest)) && fs::exists(entry.path() / kCounters))
      newest = entry.path();
  if (newest.empty())
    fail(ErrorCode::Recipe, "there is nothing to resume in '", folder.string(), "': no checkpoint-<step> there holds a ", kCounters,
         "; run without --resume, with train.save_steps for next time");
  return newest;
}

Value read_training_counters(const fs::path& checkpoint) { return read_json_file(checkpoint / kCounters); }

void load_training_state(const fs::path& checkpoint, AdamW& optimizer) {
  const SafetensorsFile file(checkpoint / kTensors);
  const std::vector<NamedTensor> wanted = optimizer.tensors();
  std::vector<std::string> problems;
  for (const auto& [name, tensor] : wanted) {
    if (!file.has(name)) {
      problems.push_back(concat("'", name, "' is missing"));
      continue;
    }
    const TensorSpec spec = file.spec(name);
    if (at::IntArrayRef(spec.shape) != tensor.sizes() || spec.dtype != tensor.scalar_type())
      problems.push_back(concat("'", name, "' is ", c10::toString(spec.dtype), " of ", spec.numel(), " elements, this run trains ",
                                c10::toString(tensor.scalar_type()), " of ", tensor.numel()));
  }
  const size_t all = generators(optimizer).size() + wanted.size();
  if (problems.empty() && file.names().size() != all)
    problems.push_back(concat("the file holds ", file.names().size(), " tensors, this run has ", all));
  if (!problems.empty()) fail(ErrorCode::Data, file.path().string(), " is the state of another run:\n  ", join(problems, "\n  "));
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : wanted) at::Tensor(tensor).copy_(file.read(name));
  for (auto& [name, generator] : generators(optimizer)) {
    if (!file.has(name)) fail(ErrorCode::Data, file.path().string(), ": '", name, "' is missing");
    const std::lock_guard lock(generator.mutex());
    generator.set_state(file.read(name));
  }
}

}  // namespace tenon::host
