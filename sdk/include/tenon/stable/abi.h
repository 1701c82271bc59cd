#pragma once
// The border of the stable tier in plain C: what a host and a plugin of any compiler and any LibTorch release agree on. C++ authors include
// tenon/stable/plugin.h instead, which hides all of it.
//
// Promise (docs/plugins/stable.md). A struct whose first member is `size` grows at its end only: whoever fills it sets `size` to what it knows,
// whoever reads it reads no further, and takes what is missing as null or zero. Structs without `size` never change. Members keep their
// place and meaning for ever; tools/sdk_abi.py holds every release to that.
// Nothing allocated here is freed there: results are handed over with the put_ functions of the services, which copy. What the host hands
// out lives until the call returns. No exception, no C++ type crosses. Functions of a quantizer run on several threads at once.
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A tensor handle of LibTorch's stable ABI (its name there is AtenTensorHandle). As an argument it is borrowed, as a result it belongs
// to the receiver.
struct AtenTensorOpaque;
typedef struct AtenTensorOpaque* tenon_tensor;

// What a function returns: TENON_OK, TENON_USE_DEFAULT (only from optional slots: "treat this call as if the slot were null"), or the code of an
// error whose text went to tenon_services_v1::fail. The numbers of errors are the exit statuses of the host.
enum {
  TENON_OK = 0,
  TENON_USE_DEFAULT = 1,
  TENON_ERROR_RECIPE = 3,
  TENON_ERROR_PLUGIN = 4,
  TENON_ERROR_DATA = 5,
  TENON_ERROR_DEVICE = 6,
  TENON_ERROR_INTERNAL = 70,
  TENON_INTERRUPTED = 130
};

// A value of a recipe, of JSON or of an option. Frozen.
enum { TENON_NULL, TENON_BOOL, TENON_INT, TENON_FLOAT, TENON_TEXT, TENON_LIST, TENON_TABLE };
struct tenon_entry;
typedef struct tenon_value {
  uint32_t kind;
  uint32_t zero;
  int64_t count;  // bytes of a text, items of a list, entries of a table
  union {
    int64_t integer;   // bool and int
    double number;     // float
    const char* text;  // UTF-8; a zero byte follows it
    const struct tenon_value* items;
    const struct tenon_entry* entries;
  } as;
} tenon_value;
typedef struct tenon_entry {
  const char* key;
  tenon_value value;
} tenon_entry;

// Numbers of dtypes and device types are LibTorch's (torch/headeronly/core/ScalarType.h and DeviceType.h).
// Shape and dtype of a tensor without its data. Frozen.
typedef struct tenon_tensor_spec {
  const char* name;
  const int64_t* shape;
  int64_t dim;
  int32_t dtype;
  int32_t zero;
} tenon_tensor_spec;

// The place of one weight; tenon/slot.h says what each member means.
typedef struct tenon_slot_v1 {
  uint32_t size;
  int32_t kind;       // 0 linear, 1 embedding, 2 experts
  int32_t role;       // 0 inner, 1 input embedding, 2 output head
  int32_t partition;  // 0 replicate, 1 column, 2 row
  int32_t dtype;
  int32_t bias;  // 0 or 1
  int32_t stack;
  int32_t stage;
  int64_t block;
  int64_t count, out, in;
  const char* path;
  const char* input_group;
  const char* tied_to;
  const void* host;  // the host's own
} tenon_slot_v1;

// Rows of one file tensor; length -1: all of them. Frozen.
typedef struct tenon_piece {
  const char* tensor;
  int64_t start, length;
} tenon_piece;

// One call into the plugin, as the host sees it: where its results and errors go. Valid on the calling thread until the call returns.
typedef struct tenon_call tenon_call;
// A file of tensors, open for the length of the call.
typedef struct tenon_file tenon_file;

typedef void (*tenon_loop_body)(void* data, int64_t begin, int64_t end);

// What the host does for a plugin. Given to the entry, valid for the life of the process. All of these members are there in every host.
typedef struct tenon_services_v1 {
  uint32_t size;
  uint32_t sdk_minor;  // of the host
  uint64_t torch_abi;  // TORCH_ABI_VERSION of the LibTorch that the host was built with

  // The text of an error, which the function then returns the code of. The last one counts.
  void (*fail)(tenon_call* call, int32_t code, const char* text, int64_t size);
  // level: 0 error, 1 warning, 2 info, 3 debug. The host puts the plugin's id in front.
  void (*log)(tenon_call* call, int32_t level, const char* text, int64_t size);
  // Whether the user wants to stop; the function may then return TENON_INTERRUPTED.
  int32_t (*is_cancelled)(tenon_call* call);

  // Results of any number and length, in order. What each function puts is said at its slot below.
  void (*put_text)(tenon_call* call, const char* text, int64_t size);
  void (*put_value)(tenon_call* call, const tenon_value* value);
  void (*put_spec)(tenon_call* call, const tenon_tensor_spec* spec);
  void (*put_tensor)(tenon_call* call, const char* name,
                     tenon_tensor tensor);  // takes the tensor over; name: null where names mean nothing

  // Sources of a slot (tenon/slot.h), of its bias where of_bias is 1: the number of pieces of source number `source`, -1 behind the last source.
  int64_t (*source_pieces)(const tenon_slot_v1* slot, int32_t of_bias, int64_t source, int32_t* is_stack);
  void (*source_piece)(const tenon_slot_v1* slot, int32_t of_bias, int64_t source, int64_t piece, tenon_piece* out);

  // Files. Names come in the file's order. `count` gives -1 when it fails, `has` 0 or 1. `name`, `spec` and `read` fail for what is not there; `read`
  // gives a copy on the CPU.
  int64_t (*file_count)(tenon_call* call, tenon_file* file);
  int32_t (*file_name)(tenon_call* call, tenon_file* file, int64_t index, const char** out);
  int32_t (*file_has)(tenon_file* file, const char* name);
  int32_t (*file_spec)(tenon_call* call, tenon_file* file, const char* name, tenon_tensor_spec* out);
  int32_t (*file_read)(tenon_call* call, tenon_file* file, const char* name, tenon_tensor* out);

  // JSON. `origin` stands in front of errors. Results live until the call returns.
  int32_t (*parse_json)(tenon_call* call, const char* text, int64_t size, const char* origin, const tenon_value** out);
  int32_t (*print_json)(tenon_call* call, const tenon_value* value, const char** text, int64_t* size);

  // Runs body(data, begin, end) over disjoint parts of [0, n), each at least `grain` long, on the threads that the host gives to this call.
  // body must return normally. The cut may differ from call to call: no result may depend on it.
  int32_t (*parallel_for)(tenon_call* call, int64_t n, int64_t grain, tenon_loop_body body, void* data);
  // The cudaStream_t that LibTorch currently uses on a CUDA device.
  int32_t (*cuda_stream)(tenon_call* call, int32_t device_index, void** out);
} tenon_services_v1;

// One row of an option table. type: "bool", "int", "float", "string", "list of strings", "table" or "any".
typedef struct tenon_option_v1 {
  uint32_t size;
  uint32_t zero;
  const char* name;
  const char* doc;
  const char* type;
  tenon_value default_value;   // TENON_NULL: the option may be left unset
  const tenon_value* choices;  // none: no such constraint
  int64_t choice_count;
  double min, max;   // infinities: no such constraint
  const void* data;  // the plugin's own
  // Optional. What else must hold: puts one text, empty when the value is good. Null: nothing else.
  int32_t (*check)(const struct tenon_option_v1* self, tenon_call* call, const tenon_value* value);
} tenon_option_v1;

// What a quantizer with these options is. The host sets every member to the default named here; the plugin overwrites what it knows,
// within `size`.
typedef struct tenon_facts_v1 {
  uint32_t size;
  int32_t needs_calibration;  // 0
  double bits_per_weight;     // 0: must be set
  double max_relative_error;  // 0: not declared
  uint64_t device_types;      // bit n: device type n. Default: the CPU
  uint64_t compute_dtypes;    // bit n: dtype n. Default: float32, bfloat16, float16
  // 0. 1: what runs later in a block is observed behind what runs earlier, already quantized
  int32_t calibrates_by_stage;
  int32_t zero;
} tenon_facts_v1;

typedef struct tenon_operand {  // frozen
  const tenon_slot_v1* slot;
  const tenon_tensor* tensors;
  int64_t tensor_count;
} tenon_operand;

// A quantizer; tenon/quantizer.h says what each function owes. `self` is what `create` made. The first eight functions are required, every other
// may be null: its comment ends with what the host does then.
typedef struct tenon_quantizer_v1 {
  uint32_t size;
  uint32_t zero;
  const char* name;
  const char* summary;
  const tenon_option_v1* const* options;
  int64_t option_count;
  const tenon_entry* retired;  // names that were options once, each with the sentence (a text) that says what to write instead
  int64_t retired_count;
  const void* data;  // the plugin's own

  // Options come checked against the table; those not set keep their defaults.
  int32_t (*create)(const struct tenon_quantizer_v1* table, tenon_call* call, const tenon_entry* options, int64_t count, void** self);
  void (*destroy)(void* self);
  int32_t (*format)(void* self, tenon_call* call);  // puts one text, "mine/1"
  int32_t (*facts)(void* self, tenon_call* call, tenon_facts_v1* out);
  int32_t (*resident)(void* self, tenon_call* call, const tenon_slot_v1* slot);  // puts specs
  // Puts tensors as `resident` says. `observer`: what make_observer of the calibration extension made, or null.
  int32_t (*quantize)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor weight, void* observer);
  // Rows [first_row, last_row) as a dense tensor [rows, in].
  int32_t (*dequantize)(void* self, tenon_call* call, const tenon_slot_v1* slot, const tenon_tensor* tensors, int64_t count, int32_t dtype,
                        int64_t first_row, int64_t last_row, tenon_tensor* out);
  // Anything else, by its id. An id that is unknown gives null. See tenon_calibration_v1.
  const void* (*extension)(void* self, const char* id);

  // Puts one text: empty for yes, else the reason for no. Null: yes for linear slots without experts.
  int32_t (*supports)(void* self, tenon_call* call, const tenon_slot_v1* slot);

  // Streaming in panels of rows. Null (of any of the four): only whole weights, through `quantize`.
  int32_t (*row_granule)(void* self, tenon_call* call, const tenon_slot_v1* slot, int64_t* out);
  int32_t (*begin)(void* self, tenon_call* call, const tenon_slot_v1* slot, int32_t device_type, int32_t device_index);  // puts tensors
  int32_t (*quantize_rows)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor rows, int64_t first_row,
                           const tenon_tensor* work, int64_t count);
  int32_t (*finish)(void* self, tenon_call* call, const tenon_slot_v1* slot, const tenon_tensor* work, int64_t count);  // puts tensors

  // x: [..., in] -> [..., out]. Null: dequantize, then a dense product.
  int32_t (*linear)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor x, const tenon_tensor* tensors, int64_t count,
                    tenon_tensor* out);
  // Fills `out`, one tensor for each operand. Null: one `linear` after another.
  int32_t (*linear_many)(void* self, tenon_call* call, const tenon_operand* operands, int64_t operand_count, tenon_tensor x,
                         tenon_tensor* out);
  // dy: [..., out] -> [..., in]. Null: dequantize in row panels, then a dense product.
  int32_t (*grad_input)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor dy, const tenon_tensor* tensors,
                        int64_t count, tenon_tensor* out);
  // ids (int64) -> [..., in]. Null: dequantizes the distinct rows.
  int32_t (*rows)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor ids, const tenon_tensor* tensors, int64_t count,
                  int32_t dtype, tenon_tensor* out);
  // x [tokens, in] by expert, offsets [experts + 1] (int64) -> [tokens, out]. Null: dequantizes one expert after another.
  int32_t (*grouped)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_tensor x, tenon_tensor offsets,
                     const tenon_tensor* tensors, int64_t count, tenon_tensor* out);

  // Files. Null: the quantizer knows no file format.
  // Puts one table of options when config.json's quantization_config is this quantizer's, nothing when it is not.
  int32_t (*recognise)(void* self, tenon_call* call, const tenon_value* quantization_config, tenon_file* file);
  int32_t (*locate)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_file* file);  // puts a text for each name
  int32_t (*unpack)(void* self, tenon_call* call, const tenon_slot_v1* slot, tenon_file* file);  // puts tensors
  int32_t (*pack)(void* self, tenon_call* call, const tenon_slot_v1* slot, const tenon_tensor* tensors,
                  int64_t count);  // puts named tensors
  // Puts one table.
  int32_t (*quantization_config)(void* self, tenon_call* call, const char* const* skipped_modules, int64_t count, int32_t model_dtype);
} tenon_quantizer_v1;

// Extension "tenon.quantizer.calibration/1": gathers what calibration needs from the inputs of one input group. Null: no calibration.
typedef struct tenon_calibration_v1 {
  uint32_t size;
  uint32_t zero;
  int32_t (*make_observer)(void* self, tenon_call* call, const tenon_slot_v1* slot, void** observer);
  int32_t (*observe)(void* observer, tenon_call* call, tenon_tensor x);  // x: [tokens, in]
  void (*destroy)(void* observer);
  // Optional. What an observer of this slot and quantize with it hold at most, beyond the weight and the result. Null: 0.
  int32_t (*bytes)(void* self, tenon_call* call, const tenon_slot_v1* slot, int64_t* out);
} tenon_calibration_v1;

// What a library provides.
typedef struct tenon_plugin_v1 {
  uint32_t size;
  uint32_t sdk_minor;  // of the headers it was built with
  const tenon_quantizer_v1* const* quantizers;
  int64_t quantizer_count;
} tenon_plugin_v1;

// The one entry, "tenon_plugin_entry_v1": called once. Null after services->fail(call, ...) is an error; what it returns stays valid.
typedef const tenon_plugin_v1* (*tenon_plugin_entry_v1_function)(const tenon_services_v1* services, tenon_call* call);

#ifdef __cplusplus
}
#endif
