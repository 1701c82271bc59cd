#include "plugins/stable_services.h"

#include <torch/csrc/inductor/aoti_torch/utils.h>
#include <torch/headeronly/version.h>

#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "tenon/device.h"
#include "tenon/version.h"

namespace tenon::host {

namespace {

// Nothing thrown here may pass through the plugin: it waits in the call.
template <class Body>
int32_t served(tenon_call* call, Body&& body) noexcept {
  try {
    body();
    return TENON_OK;
  } catch (const Error& error) {
    call->host_error = std::current_exception();
    return static_cast<int32_t>(error.code());
  } catch (...) {
    call->host_error = std::current_exception();
    return TENON_ERROR_INTERNAL;
  }
}

std::string_view view(const char* text, int64_t size) { return {text, static_cast<size_t>(size)}; }

void fail_call(tenon_call* call, int32_t, const char* text, int64_t size) {
  call->host_error = nullptr;
  call->error = view(text, size);
}

void log_line(tenon_call* call, int32_t level, const char* text, int64_t size) {
  const LogLevel severity = level <= 0 ? LogLevel::Error : level == 1 ? LogLevel::Warn : level == 2 ? LogLevel::Info : LogLevel::Debug;
  served(call, [&] { log(severity, concat(call->plugin, ": ", view(text, size))); });
}

int32_t is_cancelled(tenon_call*) { return interrupted() ? 1 : 0; }

void put_text(tenon_call* call, const char* text, int64_t size) {
  served(call, [&] { call->texts.emplace_back(view(text, size)); });
}
void put_value(tenon_call* call, const tenon_value* value) {
  served(call, [&] { call->value = stable::read_value(*value); });
}
void put_spec(tenon_call* call, const tenon_tensor_spec* spec) {
  served(call, [&] {
    call->specs.push_back({spec->name, {spec->shape, spec->shape + spec->dim}, static_cast<at::ScalarType>(spec->dtype)});
  });
}
void put_tensor(tenon_call* call, const char* name, tenon_tensor tensor) {
  served(call, [&] { call->tensors.push_back({name ? name : "", taken(tensor)}); });
}

const std::vector<Source>& sources_of(const tenon_slot_v1* slot, int32_t of_bias) {
  const auto& spec = *static_cast<const SlotSpec*>(slot->host);
  return of_bias ? spec.bias_sources : spec.sources;
}
int64_t source_pieces(const tenon_slot_v1* slot, int32_t of_bias, int64_t source, int32_t* is_stack) {
  const auto& all = sources_of(slot, of_bias);
  if (source < 0 || source >= static_cast<int64_t>(all.size())) return -1;
  const Source& found = all[static_cast<size_t>(source)];
  *is_stack = found.stack ? 1 : 0;
  return static_cast<int64_t>(found.pieces.size());
}
void source_piece(const tenon_slot_v1* slot, int32_t of_bias, int64_t source, int64_t piece, tenon_piece* out) {
  const Source::Piece& found = sources_of(slot, of_bias)[static_cast<size_t>(source)].pieces[static_cast<size_t>(piece)];
  *out = {found.tensor.c_str(), found.start, found.length};
}

const std::vector<std::string>& names_of(tenon_file* file) {
  if (!file->names) file->names = file->source->names();
  return *file->names;
}
int64_t file_count(tenon_call* call, tenon_file* file) {
  int64_t count = -1;
  served(call, [&] { count = static_cast<int64_t>(names_of(file).size()); });
  return count;
}
int32_t file_name(tenon_call* call, tenon_file* file, int64_t index, const char** out) {
  return served(call, [&] { *out = names_of(file).at(static_cast<size_t>(index)).c_str(); });
}
int32_t file_has(tenon_file* file, const char* name) { return file->source->has(name) ? 1 : 0; }
int32_t file_spec(tenon_call* call, tenon_file* file, const char* name, tenon_tensor_spec* out) {
  return served(call, [&] {
    const TensorSpec& spec = call->file_specs.emplace_back(file->source->spec(name));
    *out = {spec.name.c_str(), spec.shape.data(), static_cast<int64_t>(spec.shape.size()), static_cast<int32_t>(spec.dtype), 0};
  });
}
int32_t file_read(tenon_call* call, tenon_file* file, const char* name, tenon_tensor* out) {
  return served(call, [&] { *out = torch::aot_inductor::new_tensor_handle(file->source->read(name)); });
}

int32_t parse_json_text(tenon_call* call, const char* text, int64_t size, const char* origin, const tenon_value** out) {
  return served(call, [&] { *out = call->arena().keep(parse_json(view(text, size), origin)); });
}
int32_t print_json(tenon_call* call, const tenon_value* value, const char** text, int64_t* size) {
  return served(call, [&] {
    const std::string printed = to_json(stable::read_value(*value));
    *size = static_cast<int64_t>(printed.size());
    *text = call->arena().text(printed);
  });
}

int32_t run_parallel(tenon_call* call, int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t), void* data) {
  return served(call, [&] { tenon::parallel_for(n, grain, [=](int64_t begin, int64_t end) { body(data, begin, end); }); });
}
int32_t cuda_stream(tenon_call* call, int32_t device_index, void** out) {
  return served(call, [&] { *out = current_cuda_stream(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device_index))); });
}

}  // namespace

const tenon_services_v1& stable_services() {
  static constexpr tenon_services_v1 services{.size = sizeof(tenon_services_v1),
                                              .sdk_minor = TENON_SDK_MINOR,
                                              .torch_abi = TORCH_ABI_VERSION,
                                              .fail = fail_call,
                                              .log = log_line,
                                              .is_cancelled = is_cancelled,
                                              .put_text = put_text,
                                              .put_value = put_value,
                                              .put_spec = put_spec,
                                              .put_tensor = put_tensor,
                                              .source_pieces = source_pieces,
                                              .source_piece = source_piece,
                                              .file_count = file_count,
                                              .file_name = file_name,
                                              .file_has = file_has,
                                              .file_spec = file_spec,
                                              .file_read = file_read,
                                              .parse_json = parse_json_text,
                                              .print_json = print_json,
                                              .parallel_for = run_parallel,
                                              .cuda_stream = cuda_stream};
  return services;
}

tenon_slot_v1 plain_slot(const SlotSpec& slot) {
  return {.size = sizeof(tenon_slot_v1),
          .kind = static_cast<int32_t>(slot.kind),
          .role = static_cast<int32_t>(slot.role),
          .partition = static_cast<int32_t>(slot.partition),
          .dtype = static_cast<int32_t>(slot.dtype),
          .bias = slot.bias ? 1 : 0,
          .stack = slot.stack,
          .stage = slot.stage,
          .block = slot.block,
          .count = slot.count,
          .out = slot.out,
          .in = slot.in,
          .path = slot.path.c_str(),
          .input_group = slot.input_group.c_str(),
          .tied_to = slot.tied_to.c_str(),
          .host = &slot};
}

tenon_tensor lent(const at::Tensor& tensor) {
  return torch::aot_inductor::tensor_pointer_to_tensor_handle(const_cast<at::Tensor*>(&tensor));
}

at::Tensor taken(tenon_tensor handle) {
  const std::unique_ptr<at::Tensor> tensor(torch::aot_inductor::tensor_handle_to_tensor_pointer(handle));
  return tensor ? std::move(*tensor) : at::Tensor();
}

}  // namespace tenon::host
