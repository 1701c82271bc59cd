#pragma once
// What a config may say at most, far beyond any model: products of these stay within 64 bits.
#include <cstdint>

namespace tenon::vlm {

constexpr int64_t kMaxToken = int64_t{1} << 24;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 1 << 14;
constexpr int64_t kMaxImageSize = 1 << 14;  // pixels of an edge

}  // namespace tenon::vlm
