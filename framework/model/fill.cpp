#include "model/fill.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/seconds.h"
#include "base/text.h"
#include "base/workers.h"
#include "checkpoint/accounting.h"
#include "checkpoint/source_reader.h"
#include "model/dense_filler.h"
#include "model/new_rows.h"
#include "model/quantized_filler.h"
#include "model/random_init.h"
#include "plugins/registry.h"

namespace tenon::host {

namespace {

constexpr int64_t kPanelBytes = int64_t{8} << 20;

// One slot or tensor on its way in. Panels are disjoint rows; whoever finishes the last one completes the job.
struct Job {
  Slot* slot = nullptr;
  Dense* dense = nullptr;
  const PlannedModule* module = nullptr;
  const ActiveQuantizer* quantizer = nullptr;
  std::optional<SourceReader> source, bias_source;  // none and not packed: initialised at random
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  int64_t rows = 0, row_elements = 1, panel_rows = 0;  // rows: those that are read
  int64_t new_rows = 0;                                // behind them, drawn when they are in
  NewRows how = NewRows::Mean;
  bool by_rows = true, packed = false;
  std::vector<Adapter*> preparing;

  std::mutex mutex;
  bool begun = false;
  Tensors work;  // of the quantizer, or the one dense tensor
  std::atomic<int64_t> panels_left{0};
  const std::string& path() const { return slot ? slot->spec().path : dense->spec.path; }
};

int64_t panel_rows(int64_t rows, int64_t row_bytes, int64_t granule) {
  int64_t n = std::max<int64_t>(1, kPanelBytes / std::max<int64_t>(1, row_bytes));
  n = std::max(granule, n / granule * granule);
  return std::min(rows, n);
}

// Parallelism is between panels; a panel is one thread's work. LibTorch's thread count belongs to the thread, and the caller's is needed again.
struct OneThread {
  int before = at::get_num_threads();
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before); }
};

class Filling {
 public:
  explicit Filling(const FillRequest& request) : request_(request) {}

  FillReport run() {
    const auto start = Clock::now();
    make_jobs();
    int64_t total = 0;
    for (const auto& job : jobs_) total += bytes_of(*job);
    std::optional<Progress> progress;
    if (!request_.only_dense) progress_ = &progress.emplace(request_.random ? "initialising" : "loading", total, true);
    run_tasks(tasks_.size(), [this](size_t i) { run_task(tasks_[i]); });
    if (progress) progress->finish();
    fill_tied(request_.parts);
    for (const auto& job : jobs_) report_.bytes_resident += job->module->bytes;
    report_.bytes_read = request_.random ? 0 : total;
    report_.seconds = seconds_since(start);
    return std::move(report_);
  }

 private:
  struct Task {
    Job* job;
    int64_t first, last;
  };

  static int64_t bytes_of(const Job& job) { return job.rows * job.row_elements * static_cast<int64_t>(c10::elementSize(job.dtype)); }

  void make_jobs() {
    std::optional<WeightMap> weights;
    if (!request_.random) {
      const Blueprint& blueprint = request_.parts.blueprint();
      weights = account(blueprint, *request_.checkpoint, [&](const SlotSpec& slot) { return packed_names(slot); });
      if (!request_.only_dense) report_.notes = differing_tied_weights(blueprint, *request_.checkpoint, *weights);
    }
    for (const auto& slot : request_.parts.slots())
      if (slot->spec().tied_to.empty() && is_wanted(slot->spec().path))
        add_slot(*slot, weights ? &weights->slots.at(slot->spec().path) : nullptr);
    if (request_.only_dense) return;
    for (const auto& dense : request_.parts.denses()) add_dense(*dense, weights ? &weights->tensors.at(dense->spec.path) : nullptr);
  }

  bool is_wanted(const std::string& path) const {
    return request_.only_dense ? request_.only_dense->count(path) > 0 : !request_.deferred || request_.deferred->count(path) == 0;
  }

  std::vector<std::string> packed_names(const SlotSpec& slot) const {
    const PlannedModule* module = request_.plan.find(slot.path);
    return module && module->quantizer ? module->quantizer->locate(slot, *request_.checkpoint) : std::vector<std::string>{};
  }

  const ActiveQuantizer* active(const Quantizer* quantizer) const {
    for (const auto& a : request_.quantizers)
      if (a.quantizer.get() == quantizer) return &a;
    return nullptr;
  }

  void add_slot(Slot& slot, const SlotWeights* weights) {
    auto job = std::make_unique<Job>();
    const SlotSpec& spec = slot.spec();
    job->slot = &slot;
    job->module = request_.plan.find(spec.path);
    if (!job->module) fail(ErrorCode::Internal, "the plan has no slot '", spec.path, "'");
    job->device = at::Device(job->module->device);
    job->dtype = job->module->dense_dtype;
    if (!request_.only_dense) job->quantizer = active(job->module->quantizer);
    // Rows of dimension 0, as files and quantizers count them: of experts, the members.
    const bool members = spec.kind == SlotKind::Experts;
    job->rows = members ? spec.count : spec.out;
    job->row_elements = members ? spec.out * spec.in : spec.in;
    if (weights) {
      job->packed = !weights->packed.empty();
      if (!job->packed) {
        GrownSource grown = split_new_rows(weights->weight);
        job->new_rows = grown.new_rows, job->how = grown.how;
        job->rows -= job->new_rows;
        std::vector<int64_t> shape = weight_shape(spec);
        shape[0] -= job->new_rows;
        job->source.emplace(*request_.checkpoint, std::move(grown.stored), std::move(shape));
      } else if (!spec.sources.empty() && split_new_rows(spec.sources.front()).new_rows > 0) {
        fail(ErrorCode::Data, spec.path, " is stored quantized, so that its vocabulary cannot grow: start from the unquantized checkpoint");
      }
      if (weights->bias) job->bias_source.emplace(*request_.checkpoint, *weights->bias, bias_shape(spec));
    }
    int64_t granule = 1;
    if (job->quantizer) {
      granule = job->quantizer->quantizer->row_granule(spec);
      job->by_rows = granule > 0 && job->device.is_cpu() && job->source.has_value() && job->new_rows == 0;
      for (const auto& loaded : request_.adapters)
        if (loaded.adapter->wants_weight()) {
          const auto targets = loaded.adapter->targets(request_.parts.blueprint());
          if (std::find(targets.begin(), targets.end(), spec.path) != targets.end())
            job->preparing.push_back(loaded.adapter.get()), job->by_rows = false;
        }
    } else if (!job->source) {
      job->by_rows = false;
    }
    add_tasks(std::move(job), granule);
  }

  void add_dense(Dense& dense, const Source* source) {
    auto job = std::make_unique<Job>();
    job->dense = &dense;
    job->module = request_.plan.find(dense.spec.path);
    job->device = at::Device(job->module->device);
    job->dtype = job->module->dense_dtype;
    job->rows = dense.spec.shape.empty() ? 1 : dense.spec.shape[0];
    for (size_t i = 1; i < dense.spec.shape.size(); ++i) job->row_elements *= dense.spec.shape[i];
    if (source) job->source.emplace(*request_.checkpoint, *source, dense.spec.shape);
    job->by_rows = job->source.has_value();
    add_tasks(std::move(job), 1);
  }

  void add_tasks(std::unique_ptr<Job> job, int64_t granule) {
    job->panel_rows =
        job->by_rows ? panel_rows(job->rows, job->row_elements * static_cast<int64_t>(c10::elementSize(job->dtype)), granule) : job->rows;
    int64_t panels = 0;
    for (int64_t first = 0; first < std::max<int64_t>(job->rows, 1); first += std::max<int64_t>(job->panel_rows, 1), ++panels)
      tasks_.push_back({job.get(), first, std::min(job->rows, first + job->panel_rows)});
    job->panels_left = panels;
    jobs_.push_back(std::move(job));
  }

  void run_task(const Task& task) {
    throw_if_interrupted();
    const OneThread one_thread;
    at::NoGradGuard no_grad;
    Job& job = *task.job;
    with_context(job.path(), [&] {
      if (job.packed)
        unpack(job);
      else if (!job.source)
        initialise(job);
      else if (job.quantizer && !job.by_rows)
        quantize_whole(job);
      else
        copy_or_quantize_rows(job, task.first, task.last);
    });
    if (progress_) progress_->add((task.last - task.first) * job.row_elements * static_cast<int64_t>(c10::elementSize(job.dtype)));
    if (--job.panels_left == 0) with_context(job.path(), [&] { complete(job); });
  }

  void begin(Job& job) {
    std::lock_guard lock(job.mutex);
    if (job.begun) return;
    job.begun = true;
    if (job.quantizer) {
      call(job, "begin", [&] { job.work = job.quantizer->quantizer->begin(job.slot->spec(), job.device); });
    } else {
      const std::vector<int64_t> shape = job.slot ? weight_shape(job.slot->spec()) : job.dense->spec.shape;
      job.work = {at::empty(shape, at::TensorOptions().dtype(job.dtype).device(job.device))};
    }
  }

  void copy_or_quantize_rows(Job& job, int64_t first, int64_t last) {
    begin(job);
    {
      const at::Tensor rows = job.source->read(first, last);
      if (job.quantizer) {
        const at::Tensor converted = rows.to(job.dtype);
        call(job, "quantize", [&] { job.quantizer->quantizer->quantize_rows(job.slot->spec(), converted, first, job.work); });
      } else if (job.work[0].dim() == 0) {
        job.work[0].copy_(rows.reshape({}));
      } else {
        job.work[0].narrow(0, first, last - first).copy_(rows);
      }
    }
    job.source->release(first, last);
  }

  void quantize_whole(Job& job) {
    const SlotSpec& spec = job.slot->spec();
    at::Tensor weight = job.source->read(0, job.rows).to(job.device, job.dtype);
    if (job.new_rows > 0) {
      weight = at::cat({weight, at::empty({job.new_rows, spec.in}, weight.options())}, 0);
      draw_new_rows(weight, job.new_rows, job.how, request_.initializer_range, spec.path);
    }
    const Quantizer& quantizer = *job.quantizer->quantizer;
    for (Adapter* adapter : job.preparing) {
      const RoundTrip round_trip = [&](const at::Tensor& w) {
        return quantizer.dequantize(spec, quantizer.quantize(spec, w, nullptr), at::kFloat);
      };
      weight = adapter->prepare(spec, weight.to(at::kFloat), round_trip).to(job.dtype);
    }
    call(job, "quantize", [&] { job.work = quantizer.quantize(spec, weight.contiguous(), nullptr); });
    job.source->release(0, job.rows);
  }

  void unpack(Job& job) {
    call(job, "unpack", [&] { job.work = job.quantizer->quantizer->unpack(job.slot->spec(), *request_.checkpoint); });
    for (auto& tensor : job.work) tensor = tensor.to(job.device);
  }

  void initialise(Job& job) {
    if (job.dense) {
      job.work = {initial_dense(job.dense->spec, job.dtype, request_.initializer_range, request_.seed).to(job.device)};
      return;
    }
    const at::Tensor weight = initial_weight(job.slot->spec(), job.dtype, request_.initializer_range, request_.seed).to(job.device);
    if (job.quantizer)
      call(job, "quantize", [&] { job.work = job.quantizer->quantizer->quantize(job.slot->spec(), weight, nullptr); });
    else
      job.work = {weight};
  }

  bool is_trained(const Job& job) const { return request_.train_dense && !(request_.frozen && request_.frozen->count(job.path())); }

  // The last panel is in: the tensors become the slot's filler.
  void complete(Job& job) {
    if (job.dense) {
      job.dense->value = job.work[0].requires_grad_(is_trained(job));
      return;
    }
    const SlotSpec& spec = job.slot->spec();
    at::Tensor bias;
    if (spec.bias) {
      bias = job.bias_source ? job.bias_source->read(0, spec.out).to(job.device, job.dtype, /*non_blocking=*/false, /*copy=*/true)
                             : at::zeros({spec.out}, at::TensorOptions().dtype(job.dtype).device(job.device));
      bias.requires_grad_(is_trained(job));
    }
    if (!job.quantizer) {
      if (job.new_rows > 0) draw_new_rows(job.work[0], job.new_rows, job.how, request_.initializer_range, spec.path);
      job.slot->fill(std::make_shared<DenseFiller>(job.work[0].requires_grad_(is_trained(job)), bias));
      job.work.clear();
      return;
    }
    const Quantizer& quantizer = *job.quantizer->quantizer;
    if (job.by_rows) call(job, "finish", [&] { job.work = quantizer.finish(spec, std::move(job.work)); });
    job.slot->fill(quantized_filler(spec, *job.quantizer, std::move(job.work), bias));
  }

  template <class Body>
  void call(const Job& job, const char* what, Body&& body) {
    call_plugin(job.quantizer->section.type, what, job.path(), body);
  }

  const FillRequest& request_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<Task> tasks_;
  Progress* progress_ = nullptr;
  FillReport report_;
};

}  // namespace

FillReport fill_model(const FillRequest& request) { return Filling(request).run(); }

std::shared_ptr<Filler> quantized_filler(const SlotSpec& spec, const ActiveQuantizer& quantizer, Tensors tensors, at::Tensor bias) {
  // The plan promised these bytes; a quantizer that keeps others is told so here, not by a wrong ledger.
  const auto promised = quantizer.quantizer->resident(spec);
  bool same = promised.size() == tensors.size();
  for (size_t i = 0; same && i < promised.size(); ++i)
    same =
        tensors[i].defined() && tensors[i].sizes() == at::IntArrayRef(promised[i].shape) && tensors[i].scalar_type() == promised[i].dtype;
  if (!same)
    fail(ErrorCode::Plugin, "quantizer format ", quantizer.quantizer->format(), " returned other tensors than resident() declares");
  return std::make_shared<QuantizedFiller>(spec, quantizer.section.type, quantizer.quantizer, std::move(tensors), std::move(bias));
}

void fill_tied(ModelParts& parts) {
  for (const auto& slot : parts.slots())
    if (const auto& owner = slot->spec().tied_to; !owner.empty()) slot->fill(parts.slot(owner).filler_ptr());
}

int64_t fill_scratch_bytes(const Blueprint& blueprint, const Plan& plan) {
  int64_t whole = 0, by_rows = 0;
  for (const auto& slot : blueprint.slots) {
    const PlannedModule* module = plan.find(slot.path);
    if (!module || !slot.tied_to.empty()) continue;
    const int64_t dense = slot.numel() * static_cast<int64_t>(c10::elementSize(slot.dtype));
    if (module->quantizer && module->quantizer->row_granule(slot) == 0)
      whole = std::max(whole, 2 * dense + module->bytes);
    else
      by_rows = std::max(by_rows, 2 * std::min(dense, kPanelBytes) + (module->quantizer ? module->bytes : 0));
  }
  return static_cast<int64_t>(worker_count()) * std::max(whole, by_rows);
}

}  // namespace tenon::host
