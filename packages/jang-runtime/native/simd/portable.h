// Vectors of 4 floats in plain C++, for processors without a prelude of their own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "simd/tables.h"

namespace jang::JANG_ISA {

struct Vec {
  static constexpr int width = 4;
  float v[4];
};

// Accumulators of a tile of a matrix product: rows of x by rows of w.
constexpr int kTileRows = 2;
constexpr int kTileColumns = 4;
// Those of a tile that is summed over rows of w: rows of x by vectors.
constexpr int kSumRows = 2;
constexpr int kSumPieces = 4;
// Rows of x that are multiplied with a vector of matrix rows at once: 8 or 16.
constexpr int kStripSums = 8;

template <class Function>
inline Vec each(Function function) {
  Vec out;
  for (int i = 0; i < 4; ++i) out.v[i] = function(i);
  return out;
}

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A finite or infinite IEEE half.
inline float float_of_f16(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 0) {
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return float_of_bits(sign | wide << 23 | fraction << 13);
}

inline Vec zero() { return {}; }
inline Vec broadcast(float value) { return {{value, value, value, value}}; }
inline Vec load(const float* p) { return each([p](int i) { return p[i]; }); }
inline void store(float* p, Vec a) { std::memcpy(p, a.v, sizeof a.v); }
// `count` values, 0 to width - 1; the others are 0.
inline Vec load_some(const float* p, int count) {
  return each([=](int i) { return i < count ? p[i] : 0.0f; });
}
inline void store_some(float* p, Vec a, int count) {
  for (int i = 0; i < count; ++i) p[i] = a.v[i];
}
inline Vec load_f16(const uint16_t* p) {
  return each([p](int i) { return float_of_f16(p[i]); });
}
inline Vec load_bf16(const uint16_t* p) {
  return each([p](int i) { return float_of_bits(static_cast<uint32_t>(p[i]) << 16); });
}
inline Vec add(Vec a, Vec b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Vec sub(Vec a, Vec b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Vec mul(Vec a, Vec b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Vec div(Vec a, Vec b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline Vec max(Vec a, Vec b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec min(Vec a, Vec b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec fma(Vec a, Vec b, Vec c) { return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
// To the nearest integer.
inline Vec round(Vec a) { return each([&](int i) { return std::nearbyintf(a.v[i]); }); }
// 2 to the power of whole numbers from -126 to 127.
inline Vec power_of_two(Vec a) {
  return each([&](int i) {
    return float_of_bits(static_cast<uint32_t>(static_cast<int>(a.v[i]) + 127) << 23);
  });
}
// `a` where x is not below the limit, else 0.
inline Vec zero_below(Vec a, Vec x, float limit) {
  return each([&](int i) { return x.v[i] < limit ? 0.0f : a.v[i]; });
}
inline float sum(Vec a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
// The sums of four vectors.
inline void store_sums(float* p, const Vec (&a)[4]) {
  for (int i = 0; i < 4; ++i) p[i] = sum(a[i]);
}
inline float largest(Vec a) {
  const Vec b = max(a, Vec{{a.v[1], a.v[0], a.v[3], a.v[2]}});
  return b.v[0] > b.v[2] ? b.v[0] : b.v[2];
}

// 16 codes of `bits` bits as floats.
template <int bits>
inline void decode(const uint8_t* p, Vec (&out)[4]) {
  for (int code = 0; code < 16; ++code) {
    const int bit = code * bits;
    uint32_t word = p[bit / 8];
    if (bit % 8 + bits > 8) word |= static_cast<uint32_t>(p[bit / 8 + 1]) << 8;
    out[code / 4].v[code % 4] = static_cast<float>((word >> (bit % 8)) & ((1u << bits) - 1));
  }
}

struct Words {
  uint32_t v[4];
};

// codes_per_lane codes in each lane, the first lowest; reads 16 bytes.
template <int bits>
inline Words load_words(const uint8_t* p) {
  Words words;
  for (int lane = 0; lane < 4; ++lane) {
    const int bit = lane * bits * codes_per_lane(bits);
    words.v[lane] = p[bit / 8] | p[bit / 8 + 1] << 8 | p[bit / 8 + 2] << 16;
    if constexpr (bits * codes_per_lane(bits) == 32) {
      words.v[lane] |= static_cast<uint32_t>(p[bit / 8 + 3]) << 24;
    }
    words.v[lane] >>= bit % 8;
  }
  return words;
}

inline Words words_of(Vec a) {
  Words words;
  std::memcpy(words.v, a.v, sizeof words.v);
  return words;
}
inline Vec floats_of(Words a) {
  return each([&](int i) { return float_of_bits(a.v[i]); });
}

// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vec (&a)[4]) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < i; ++j) std::swap(a[i].v[j], a[j].v[i]);
  }
}

// 1 + code / 2^bits of the code at a position of each lane.
template <int bits, int position>
inline Vec one_plus_code(Words words) {
  constexpr int shift = fraction_shift(bits, position);
  return each([&](int i) {
    const uint32_t moved =
        shift > 0 ? words.v[i] << (shift > 0 ? shift : 0) : words.v[i] >> (shift > 0 ? 0 : -shift);
    return float_of_bits((moved & fraction_mask(bits)) | kOne);
  });
}

// The number of each lane divided by 2^log.
inline Words lane_numbers(int log) {
  return {{0u >> log, 1u >> log, 2u >> log, 3u >> log}};
}
// table[i] for the i of each lane.
inline Vec look_up(const float* table, Words lanes) {
  return each([&](int i) { return table[lanes.v[i]]; });
}

}  // namespace jang::JANG_ISA
