#include "bits.h"

#include <vector>

namespace tenon::gptq {

namespace {

void shift_codes(std::uint32_t* words, std::int64_t count, int bits, std::uint32_t by) {
  const std::int64_t word_count = words_for(count, bits);
  if (bits != 3) {
    std::uint32_t ones = 0;
    for (int at = 0; at < 32; at += bits) ones |= 1u << at;
    for (std::int64_t i = 0; i < word_count; ++i) words[i] += by * ones;
    return;
  }
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
  unpack_codes(words, count, bits, codes.data());
  for (auto& code : codes) code = static_cast<std::uint8_t>((code + by) & 7u);
  pack_codes(codes.data(), count, bits, words);
}

}  // namespace

void pack_codes(const std::uint8_t* codes, std::int64_t count, int bits, std::uint32_t* words) {
  std::uint64_t pending = 0;
  int filled = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    pending |= static_cast<std::uint64_t>(codes[i]) << filled;
    filled += bits;
    if (filled >= 32) {
      *words++ = static_cast<std::uint32_t>(pending);
      pending >>= 32;
      filled -= 32;
    }
  }
  if (filled > 0) *words = static_cast<std::uint32_t>(pending);
}

void unpack_codes(const std::uint32_t* words, std::int64_t count, int bits, std::uint8_t* codes) {
  const std::uint32_t mask = (1u << bits) - 1;
  std::uint64_t pending = 0;
  int held = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (held < bits) {
      pending |= static_cast<std::uint64_t>(*words++) << held;
      held += 32;
    }
    codes[i] = static_cast<std::uint8_t>(pending & mask);
    pending >>= bits;
    held -= bits;
  }
}

void subtract_one(std::uint32_t* words, std::int64_t count, int bits) { shift_codes(words, count, bits, ~0u); }
void add_one(std::uint32_t* words, std::int64_t count, int bits) { shift_codes(words, count, bits, 1u); }

}  // namespace tenon::gptq
