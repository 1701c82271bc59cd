#pragma once
// What the functions of a stable quantizer are given and give: the nouns of tenon/slot.h and tenon/quantizer.h over LibTorch's stable ABI.
// References and views that a function is given are valid until it returns.
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/DeviceType.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tenon/stable/call.h"

// LibTorch's own types are hidden, and so must be what holds them.
#pragma GCC visibility push(hidden)
namespace tenon::stable {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;  // in the order of Quantizer::resident

constexpr ScalarType kByte = ScalarType::Byte, kChar = ScalarType::Char, kInt = ScalarType::Int, kLong = ScalarType::Long,
                     kFloat = ScalarType::Float, kHalf = ScalarType::Half, kBFloat16 = ScalarType::BFloat16;
constexpr DeviceType kCPU = DeviceType::CPU, kCUDA = DeviceType::CUDA;

// The numbers of the C border; LibTorch keeps them, because files hold them.
static_assert(static_cast<int>(kByte) == 0 && static_cast<int>(kChar) == 1 && static_cast<int>(kLong) == 4 &&
              static_cast<int>(kHalf) == 5 && static_cast<int>(kFloat) == 6 && static_cast<int>(kBFloat16) == 15 &&
              static_cast<int>(kCPU) == 0 && static_cast<int>(kCUDA) == 1);

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  ScalarType dtype = kFloat;
};

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

struct Source {
  struct Piece {
    std::string tensor;
    int64_t start = 0;
    int64_t length = -1;  // rows; -1: all
  };
  std::vector<Piece> pieces;
  bool stack = false;
};

enum class SlotKind { Linear, Embedding, Experts };
enum class SlotRole { Inner, InputEmbedding, OutputHead };
enum class Partition { Replicate, Column, Row };

// As tenon/slot.h has it; sources are read when they are asked for.
struct SlotSpec {
  explicit SlotSpec(const tenon_slot_v1& slot)
      : path(slot.path),
        input_group(slot.input_group),
        tied_to(slot.tied_to),
        kind(static_cast<SlotKind>(slot.kind)),
        role(static_cast<SlotRole>(slot.role)),
        partition(static_cast<Partition>(slot.partition)),
        dtype(static_cast<ScalarType>(slot.dtype)),
        bias(slot.bias != 0),
        stack(slot.stack),
        stage(slot.stage),
        block(slot.block),
        count(slot.count),
        out(slot.out),
        in(slot.in),
        plain_(&slot) {}

  std::string_view path, input_group, tied_to;
  SlotKind kind;
  SlotRole role;
  Partition partition;
  ScalarType dtype;
  bool bias;
  int stack, stage;
  int64_t block, count, out, in;

  int64_t numel() const { return count * out * in; }
  std::vector<Source> sources() const { return read_sources(0); }
  std::vector<Source> bias_sources() const { return read_sources(1); }

 private:
  std::vector<Source> read_sources(int32_t of_bias) const {
    std::vector<Source> all;
    for (int64_t i = 0;; ++i) {
      int32_t stacked = 0;
      const int64_t pieces = detail::services.source_pieces(plain_, of_bias, i, &stacked);
      if (pieces < 0) return all;
      Source source;
      source.stack = stacked != 0;
      for (int64_t p = 0; p < pieces; ++p) {
        tenon_piece piece{};
        detail::services.source_piece(plain_, of_bias, i, p, &piece);
        source.pieces.push_back({piece.tensor, piece.start, piece.length});
      }
      all.push_back(std::move(source));
    }
  }
  const tenon_slot_v1* plain_;
};

struct QuantizerFacts {
  double bits_per_weight = 0;                // storage, scales included, for a large weight
  std::vector<DeviceType> devices = {kCPU};  // it can multiply on
  std::vector<ScalarType> compute_dtypes = {kFloat, kBFloat16, kHalf};
  bool needs_calibration = false;
  bool calibrates_by_stage = false;  // what runs later in a block is observed behind what runs earlier, already quantized
  double max_relative_error = 0;     // RMS(w - deq(w)) / RMS(w) on normal weights never exceeds it; 0: not declared
};

// Yes, or no with the reason that `host plan` prints.
struct Support {
  bool yes = true;
  std::string reason;
  static Support no(std::string reason) { return {false, std::move(reason)}; }
};

// A tensor file: names first, bytes only when asked for.
class TensorSource {
 public:
  explicit TensorSource(tenon_file* file) : file_(file) {}
  std::vector<std::string> names() const {
    const int64_t count = detail::services.file_count(detail::current_call, file_);
    if (count < 0) throw detail::HostFailed{TENON_ERROR_DATA};
    std::vector<std::string> all;
    for (int64_t i = 0; i < count; ++i) {
      const char* name = nullptr;
      detail::check(detail::services.file_name(detail::current_call, file_, i, &name));
      all.emplace_back(name);
    }
    return all;
  }
  bool has(const std::string& name) const { return detail::services.file_has(file_, name.c_str()) != 0; }
  TensorSpec spec(const std::string& name) const {
    tenon_tensor_spec plain{};
    detail::check(detail::services.file_spec(detail::current_call, file_, name.c_str(), &plain));
    return {name, {plain.shape, plain.shape + plain.dim}, static_cast<ScalarType>(plain.dtype)};
  }
  // A copy on the CPU.
  Tensor read(const std::string& name) const {
    tenon_tensor tensor = nullptr;
    detail::check(detail::services.file_read(detail::current_call, file_, name.c_str(), &tensor));
    return Tensor(tensor);
  }

 private:
  tenon_file* file_;
};

}  // namespace tenon::stable
#pragma GCC visibility pop
