#include "model/placement.h"

#include <algorithm>
#include <numeric>

#include "base/text.h"

namespace tenon::host {

namespace {

struct Usage {
  DeviceBudget budget;
  int64_t used = 0;
  bool touched = false;
  int64_t room(int64_t reserve) const { return budget.bytes - used - (touched ? 0 : reserve); }
  void take(int64_t bytes, int64_t reserve) {
    used += bytes + (touched ? 0 : reserve);
    touched = true;
  }
};

bool is_module_prefix(const std::string& prefix, const std::string& path) {
  return prefix.empty() || path == prefix ||
         (path.size() > prefix.size() && path.compare(0, prefix.size(), prefix) == 0 && path[prefix.size()] == '.');
}

std::string known_devices(const std::vector<Usage>& devices) {
  std::vector<std::string> names;
  for (const auto& d : devices) names.push_back(d.budget.name);
  return join(names, ", ");
}

Usage& named(std::vector<Usage>& devices, const std::string& name) {
  for (auto& d : devices)
    if (d.budget.name == name || (name == "cuda" && d.budget.name == "cuda:0")) return d;
  fail(ErrorCode::Device, "device_map asks for '", name, "', this machine offers ", known_devices(devices));
}

// Fills devices in order; `quota` bounds what each takes before the next one starts (balanced), the last resort is any device with room.
void fill_in_order(const std::vector<PlacementUnit>& units, std::vector<Usage>& devices, const std::vector<int64_t>& quota, int64_t reserve,
                   const std::string& how, Placement& result) {
  size_t at = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    const PlacementUnit& unit = units[i];
    if (unit.tied_to >= 0) {
      result.device[i] = result.device[unit.tied_to];
      result.reason[i] = "shares a weight with " + units[unit.tied_to].path;
      named(devices, result.device[i]).take(unit.bytes, reserve);
      continue;
    }
    // A device is left when its share is reached or the unit no longer fits; what lies before is not gone back to, so that blocks stay in order.
    while (at + 1 < devices.size() &&
           (devices[at].room(reserve) < unit.bytes || (devices[at].touched && devices[at].used + unit.bytes / 2 > quota[at])))
      ++at;
    Usage& device = devices[at];
    result.device[i] = device.budget.name;
    result.reason[i] = device.budget.name == "cpu" && devices.size() > 1 ? "the CUDA devices are full" : how;
    if (device.room(reserve) < unit.bytes) result.fits = false;
    device.take(unit.bytes, reserve);
  }
}

}  // namespace

Placement place(const std::vector<PlacementUnit>& units, const Value& device_map, const std::vector<DeviceBudget>& budgets,
                int64_t reserve) {
  std::vector<Usage> devices;
  for (const auto& b : budgets) devices.push_back({b});
  Placement result;
  result.device.resize(units.size());
  result.reason.resize(units.size());

  if (device_map.is_table()) {
    for (const auto& [prefix, device] : device_map.as_table()) {
      named(devices, device.as_string());
      if (!std::any_of(units.begin(), units.end(), [&](const auto& u) { return is_module_prefix(prefix, u.path); })) {
        const bool inside = std::any_of(units.begin(), units.end(), [&](const auto& u) { return is_module_prefix(u.path, prefix); });
        fail(ErrorCode::Recipe, "device_map names '", prefix, "', ",
             inside ? "a part of a block: blocks stay whole, name the block" : "which is no module of this model");
      }
    }
    for (size_t i = 0; i < units.size(); ++i) {
      const Value::Entry* best = nullptr;
      for (const auto& entry : device_map.as_table())
        if (is_module_prefix(entry.first, units[i].path) && (!best || entry.first.size() > best->first.size())) best = &entry;
      if (!best && units[i].tied_to < 0)
        fail(ErrorCode::Recipe, "device_map says nothing about '", units[i].path, "': add it, or \"\" = device for all the rest");
      if (units[i].tied_to >= 0) {
        result.device[i] = result.device[units[i].tied_to];
        if (best && named(devices, best->second.as_string()).budget.name != result.device[i])
          fail(ErrorCode::Recipe, "device_map parts '", units[i].path, "' from '", units[units[i].tied_to].path,
               "', whose weight it shares");
        result.reason[i] = "shares a weight with " + units[units[i].tied_to].path;
      } else {
        result.device[i] = named(devices, best->second.as_string()).budget.name;
        result.reason[i] = best->first.empty() ? "device_map, all the rest" : "device_map, '" + best->first + "'";
      }
      Usage& device = named(devices, result.device[i]);
      if (device.room(reserve) < units[i].bytes) result.fits = false;
      device.take(units[i].bytes, reserve);
    }
  } else {
    const std::string& how = device_map.as_string();
    if (how == "auto" || how == "balanced" || how == "sequential") {
      std::vector<int64_t> quota(devices.size(), INT64_MAX);
      const bool all_on_cpu = devices.size() == 1;
      if (how != "sequential" && !all_on_cpu) {
        // Equal shares over the CUDA devices when all fits there, else each as full as it goes.
        const size_t cuda = devices.size() - (devices.back().budget.name == "cpu" ? 1 : 0);
        const int64_t total =
            std::accumulate(units.begin(), units.end(), int64_t{0}, [](int64_t sum, const auto& u) { return sum + u.bytes; });
        // `auto` leaves devices out that are not needed; `balanced` uses all.
        size_t used = cuda;
        if (how == "auto") {
          int64_t room = 0;
          for (used = 0; used < cuda && room < total; ++used) room += devices[used].budget.bytes - reserve;
        }
        for (size_t d = 0; d < used; ++d) quota[d] = total / static_cast<int64_t>(std::max<size_t>(used, 1)) + reserve;
        if (used > 0) quota[used - 1] = INT64_MAX;
      }
      fill_in_order(units, devices, quota, reserve, all_on_cpu ? "the only device" : how, result);
    } else {
      Usage& device = named(devices, how);
      for (size_t i = 0; i < units.size(); ++i) {
        result.device[i] = device.budget.name;
        result.reason[i] = "device_map = \"" + how + "\"";
        device.take(units[i].bytes, reserve);
      }
      result.fits = device.used <= device.budget.bytes;
    }
  }
  if (!result.fits) {
    for (const auto& d : devices)
      if (d.used > d.budget.bytes)
        result.advice = concat(d.budget.name, " needs ", human_bytes(d.used), " and has ", human_bytes(d.budget.bytes), ": ",
                               human_bytes(d.used - d.budget.bytes), " too little");
    if (result.advice.empty()) result.advice = "the largest unit fits on no device";
  }
  return result;
}

}  // namespace tenon::host
