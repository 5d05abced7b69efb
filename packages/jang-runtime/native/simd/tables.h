// Where the codes of a chunk of 16 lie: 2 * bits bytes, first code first, low bit first.
#pragma once

#include <cstdint>

namespace jang {

// Byte positions and shifts that bring each of 16 codes to the low bits of a 32-bit lane.
struct Spread {
  alignas(64) uint8_t bytes[64];
  alignas(64) uint32_t shifts[16];
};

constexpr uint8_t kZeroByte = 0x80;  // what x86's byte shuffle and ARM's table lookup turn into 0

// `lanes` consecutive codes start at a byte of their own; the next `lanes` begin `lanes * bits / 8`
// bytes later. A code spans at most two bytes.
constexpr Spread make_spread(int bits, int lanes) {
  Spread spread{};
  for (int code = 0; code < 16; ++code) {
    const int bit = (code % lanes) * bits;
    const int shift = bit % 8;
    spread.shifts[code] = static_cast<uint32_t>(shift);
    spread.bytes[4 * code] = static_cast<uint8_t>(bit / 8);
    spread.bytes[4 * code + 1] =
        shift + bits > 8 ? static_cast<uint8_t>(bit / 8 + 1) : kZeroByte;
    spread.bytes[4 * code + 2] = kZeroByte;
    spread.bytes[4 * code + 3] = kZeroByte;
  }
  return spread;
}

// How many codes a 32-bit lane takes: as many as fit and fill whole half bytes.
constexpr int codes_per_lane(int bits) {
  return bits == 2 ? 16 : bits <= 4 ? 8 : 4;
}

// Byte positions and shifts that bring codes_per_lane codes to each of `lanes` 32-bit lanes. The
// bytes of 4 lanes are counted from where the first of them begins if `local`.
constexpr Spread make_lane_spread(int bits, int lanes, bool local) {
  Spread spread{};
  const int lane_bits = bits * codes_per_lane(bits);
  for (int lane = 0; lane < lanes; ++lane) {
    const int bit = (local ? lane % 4 : lane) * lane_bits;
    spread.shifts[lane] = static_cast<uint32_t>(bit % 8);
    for (int byte = 0; byte < 4; ++byte) {
      const bool wanted = byte * 8 < bit % 8 + lane_bits;
      spread.bytes[4 * lane + byte] =
          wanted ? static_cast<uint8_t>(bit / 8 + byte) : kZeroByte;
    }
  }
  return spread;
}

// Bytes of 4 lanes.
constexpr int quad_bytes(int bits) { return bits * codes_per_lane(bits) / 2; }

// A code at the top of a float's fraction makes 1 + code / 2^bits of the float 1.
constexpr uint32_t kOne = 0x3f800000;
constexpr uint32_t fraction_mask(int bits) { return ((1u << bits) - 1) << (23 - bits); }
// How far left the code at a position of a lane has to move for that; right if negative.
constexpr int fraction_shift(int bits, int position) { return 23 - bits - position * bits; }

}  // namespace jang
