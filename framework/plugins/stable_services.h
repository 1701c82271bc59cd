#pragma once
// What the host does for plugins of the stable tier while one of their functions runs, and where results and errors of that call go.
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tenon/quantizer.h"
#include "tenon/stable/abi.h"
#include "tenon/stable/value.h"

// A file that a plugin may look into during a call.
struct tenon_file {
  const tenon::TensorSource* source;
  std::optional<std::vector<std::string>> names = std::nullopt;  // when they were asked for
};

// One call, on one thread. Cheap to make: what few calls need is made when it is needed.
struct tenon_call {
  explicit tenon_call(const std::string& plugin_id) : plugin(plugin_id) {}

  const std::string& plugin;
  // The error: a text of the plugin's own, or what the host threw in a service.
  std::string error;
  std::exception_ptr host_error;
  // Results, in order.
  std::vector<std::string> texts;
  std::optional<tenon::Value> value;
  std::vector<tenon::TensorSpec> specs;
  std::vector<tenon::NamedTensor> tensors;

  // What the host lent, until the call returns.
  std::list<tenon::TensorSpec> file_specs;
  tenon::stable::ValueArena& arena() {
    if (!arena_) arena_ = std::make_unique<tenon::stable::ValueArena>();
    return *arena_;
  }

 private:
  std::unique_ptr<tenon::stable::ValueArena> arena_;
};

namespace tenon::host {

const tenon_services_v1& stable_services();

// The slot as plain data; both must outlive it.
tenon_slot_v1 plain_slot(const SlotSpec& slot);

// Handles of LibTorch's stable ABI are tensors of this LibTorch behind a pointer. Lent: the tensor must stay.
tenon_tensor lent(const at::Tensor& tensor);
// Takes over a handle that a plugin gave; null gives an undefined tensor.
at::Tensor taken(tenon_tensor handle);

}  // namespace tenon::host
