#include "model/plan.h"

#include <fmt/format.h>

#include <map>

#include "base/text.h"

namespace tenon::host {

const PlannedModule* Plan::find(const std::string& path) const {
  for (const auto& module : modules)
    if (module.path == path) return &module;
  return nullptr;
}

Value Plan::to_json_value() const {
  Value out = Value::table();
  Value sums = Value::table();
  sums.set("weights", totals.weights), sums.set("adapters", totals.adapters), sums.set("gradients", totals.gradients);
  sums.set("optimizer", totals.optimizer), sums.set("activations", totals.activations), sums.set("host_peak", totals.host_peak);
  out.set("totals", sums);
  Value counts = Value::table();
  counts.set("total", parameters_total), counts.set("trainable", parameters_trainable), counts.set("quantized", parameters_quantized);
  out.set("parameters", counts);
  Value device_list = Value::list();
  for (const auto& d : devices) {
    Value row = Value::table();
    row.set("name", d.name), row.set("capacity", d.capacity), row.set("weights", d.weights), row.set("adapters", d.adapters);
    row.set("gradients", d.gradients), row.set("optimizer", d.optimizer), row.set("activations", d.activations),
        row.set("total", d.total());
    device_list.as_list().push_back(row);
  }
  out.set("devices", device_list);
  Value module_list = Value::list();
  for (const auto& m : modules) {
    Value row = Value::table();
    row.set("path", m.path), row.set("filler", m.filler), row.set("device", m.device), row.set("dtype", m.dtype), row.set("bytes", m.bytes),
        row.set("reason", m.reason);
    module_list.as_list().push_back(row);
  }
  out.set("modules", module_list);
  Value seam_table = Value::table();
  for (const auto& [seam, chain] : seams) seam_table.set(seam, Value(chain));
  out.set("seams", seam_table);
  Value recompute_list = Value::list();
  for (int64_t block : recompute) recompute_list.as_list().push_back(block);
  out.set("recompute", recompute_list);
  out.set("notes", Value(notes));
  out.set("fits", fits);
  if (!fits) out.set("advice", advice);
  return out;
}

namespace {

// "model.layers.17.mlp.up_proj" -> "model.layers.*.mlp.up_proj"
std::string with_star(const std::string& path) {
  std::vector<std::string> parts = split(path, '.');
  for (auto& part : parts)
    if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos) part = "*";
  return join(parts, ".");
}

}  // namespace

std::string Plan::to_text() const {
  // Blocks of equal treatment share a line: the ledger of an 80-block model stays readable.
  struct Line {
    std::string path, filler, reason;
    std::vector<std::string> devices;
    int64_t count = 0, bytes = 0;
  };
  std::vector<Line> lines;
  std::map<std::string, size_t> index;
  for (const auto& m : modules) {
    const std::string key = with_star(m.path) + "\n" + m.filler + "\n" + m.reason;
    auto [it, fresh] = index.try_emplace(key, lines.size());
    if (fresh) lines.push_back({with_star(m.path), m.filler, m.reason, {}, 0, 0});
    Line& line = lines[it->second];
    ++line.count, line.bytes += m.bytes;
    if (line.devices.empty() || line.devices.back() != m.device) line.devices.push_back(m.device);
  }
  size_t width = 6;
  for (const auto& line : lines) width = std::max(width, line.path.size());
  std::string out = fmt::format("{:<{}}  {:>5}  {:>10}  {:<12} {:<8} {}\n", "module", width, "count", "bytes", "filler", "device", "why");
  for (const auto& line : lines) {
    const std::string device = line.devices.size() <= 1 ? line.devices.front() : line.devices.front() + ".." + line.devices.back();
    out += fmt::format("{:<{}}  {:>5}  {:>10}  {:<12} {:<8} {}\n", line.path, width, line.count, human_bytes(line.bytes), line.filler,
                       device, line.reason);
  }
  out += fmt::format("\n{:<8}  {:>10}  {:>10}  {:>10}  {:>10}  {:>11}  {:>10}  {:>10}\n", "device", "weights", "adapters", "gradients",
                     "optimizer", "activations", "total", "of");
  for (const auto& d : devices)
    out += fmt::format("{:<8}  {:>10}  {:>10}  {:>10}  {:>10}  {:>11}  {:>10}  {:>10}\n", d.name, human_bytes(d.weights),
                       human_bytes(d.adapters), human_bytes(d.gradients), human_bytes(d.optimizer), human_bytes(d.activations),
                       human_bytes(d.total()), human_bytes(d.capacity));
  out += fmt::format("\nparameters: {} in all, {} trainable ({:.4f} %), {} quantized ({:.1f} %)\n", human_count(parameters_total),
                     human_count(parameters_trainable),
                     parameters_total ? 100.0 * static_cast<double>(parameters_trainable) / static_cast<double>(parameters_total) : 0.0,
                     human_count(parameters_quantized),
                     parameters_total ? 100.0 * static_cast<double>(parameters_quantized) / static_cast<double>(parameters_total) : 0.0);
  out += fmt::format("host memory: {} at its peak\n", human_bytes(totals.host_peak));
  if (!recompute.empty())
    out += fmt::format("gradient checkpointing: {} blocks are computed again in the backward pass\n", recompute.size());
  if (!seams.empty()) {
    out += "seams:";
    for (const auto& [seam, chain] : seams) out += fmt::format(" {} = {};", seam, join(chain, " < "));
    out.back() = '\n';
  }
  for (const auto& note : notes) out += "note: " + note + "\n";
  out += fits ? "fits\n" : "does not fit: " + advice + "\n";
  return out;
}

}  // namespace tenon::host
