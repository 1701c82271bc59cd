#pragma once
// Streams of 2, 3, 4 or 8-bit codes in 32-bit words, lowest bits first; a 3-bit code may cross into the next word.
#include <cstdint>

namespace tenon::gptq {

inline std::int64_t words_for(std::int64_t count, int bits) { return (count * bits + 31) / 32; }

// The last word may have room to spare: zeros.
void pack_codes(const std::uint8_t* codes, std::int64_t count, int bits, std::uint32_t* words);
void unpack_codes(const std::uint32_t* words, std::int64_t count, int bits, std::uint8_t* codes);

// The format's first version stores each zero point less one. Both take whole words where codes do not cross them, as GPTQModel does, so that a
// zero of 0, which borrows from its neighbour there, comes back as it was.
void subtract_one(std::uint32_t* words, std::int64_t count, int bits);
void add_one(std::uint32_t* words, std::int64_t count, int bits);

}  // namespace tenon::gptq
