// Vectors of 4 floats: 64-bit ARM.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "simd/tables.h"

namespace jang::JANG_ISA {

struct Vec {
  static constexpr int width = 4;
  float32x4_t v;
};

// Accumulators of a tile of a matrix product: rows of x by rows of w.
constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
// Those of a tile that is summed over rows of w: rows of x by vectors.
constexpr int kSumRows = 4;
constexpr int kSumPieces = 4;
// Rows of x that are multiplied with a vector of matrix rows at once: 8 or 16.
constexpr int kStripSums = 16;

inline Vec zero() { return {vdupq_n_f32(0)}; }
inline Vec broadcast(float value) { return {vdupq_n_f32(value)}; }
inline Vec load(const float* p) { return {vld1q_f32(p)}; }
inline void store(float* p, Vec a) { vst1q_f32(p, a.v); }
// `count` values, 0 to width - 1; the others are 0.
inline Vec load_some(const float* p, int count) {
  float values[4] = {0, 0, 0, 0};
  for (int i = 0; i < count; ++i) values[i] = p[i];
  return load(values);
}
inline void store_some(float* p, Vec a, int count) {
  float values[4];
  store(values, a);
  for (int i = 0; i < count; ++i) p[i] = values[i];
}
inline Vec load_f16(const uint16_t* p) {
  return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))};
}
inline Vec load_bf16(const uint16_t* p) {
  return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))};
}
inline Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
// To the nearest integer.
inline Vec round(Vec a) { return {vrndnq_f32(a.v)}; }
// 2 to the power of whole numbers from -126 to 127.
inline Vec power_of_two(Vec a) {
  const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(a.v), vdupq_n_s32(127));
  return {vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23))};
}
// `a` where x is not below the limit, else 0.
inline Vec zero_below(Vec a, Vec x, float limit) {
  const uint32x4_t below = vcltq_f32(x.v, vdupq_n_f32(limit));
  return {vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v), below))};
}
inline float sum(Vec a) { return vaddvq_f32(a.v); }
// The sums of four vectors.
inline void store_sums(float* p, const Vec (&a)[4]) {
  vst1q_f32(p, vpaddq_f32(vpaddq_f32(a[0].v, a[1].v), vpaddq_f32(a[2].v, a[3].v)));
}
inline float largest(Vec a) { return vmaxvq_f32(a.v); }

// 16 codes of `bits` bits as floats; reads 16 bytes.
template <int bits>
inline void decode(const uint8_t* p, Vec (&out)[4]) {
  static constexpr Spread spread = make_spread(bits, 16);
  const uint8x16_t packed = vld1q_u8(p);
  const uint32x4_t mask = vdupq_n_u32((1u << bits) - 1);
  for (int quarter = 0; quarter < 4; ++quarter) {
    const uint8x16_t bytes = vqtbl1q_u8(packed, vld1q_u8(spread.bytes + 16 * quarter));
    const int32x4_t shifts =
        vnegq_s32(vreinterpretq_s32_u32(vld1q_u32(spread.shifts + 4 * quarter)));
    const uint32x4_t codes = vandq_u32(vshlq_u32(vreinterpretq_u32_u8(bytes), shifts), mask);
    out[quarter].v = vcvtq_f32_u32(codes);
  }
}

using Words = uint32x4_t;

// codes_per_lane codes in each lane, the first lowest; reads 16 bytes.
template <int bits>
inline Words load_words(const uint8_t* p) {
  const uint8x16_t packed = vld1q_u8(p);
  if constexpr (bits * codes_per_lane(bits) == 32) {
    return vreinterpretq_u32_u8(packed);
  } else {
    static constexpr Spread spread = make_lane_spread(bits, 4, true);
    const Words words = vreinterpretq_u32_u8(vqtbl1q_u8(packed, vld1q_u8(spread.bytes)));
    if constexpr (bits != 5) return words;
    return vshlq_u32(words, vnegq_s32(vreinterpretq_s32_u32(vld1q_u32(spread.shifts))));
  }
}

inline Words words_of(Vec a) { return vreinterpretq_u32_f32(a.v); }
inline Vec floats_of(Words a) { return {vreinterpretq_f32_u32(a)}; }

// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vec (&a)[4]) {
  const float32x4x2_t first = vtrnq_f32(a[0].v, a[1].v);
  const float32x4x2_t second = vtrnq_f32(a[2].v, a[3].v);
  for (int j = 0; j < 2; ++j) {
    a[j].v = vcombine_f32(vget_low_f32(first.val[j]), vget_low_f32(second.val[j]));
    a[2 + j].v = vcombine_f32(vget_high_f32(first.val[j]), vget_high_f32(second.val[j]));
  }
}

// 1 + code / 2^bits of the code at a position of each lane.
template <int bits, int position>
inline Vec one_plus_code(Words words) {
  constexpr int shift = fraction_shift(bits, position);
  if constexpr (shift > 0) words = vshlq_n_u32(words, shift);
  if constexpr (shift < 0) words = vshrq_n_u32(words, -shift);
  return {vreinterpretq_f32_u32(
      vbslq_u32(vdupq_n_u32(fraction_mask(bits)), words, vdupq_n_u32(kOne)))};
}

// The number of each lane divided by 2^log.
inline Words lane_numbers(int log) {
  const Words lanes = {0, 1, 2, 3};
  return vshlq_u32(lanes, vdupq_n_s32(-log));
}
// table[i] for the i of each lane.
inline Vec look_up(const float* table, Words lanes) {
  const float values[4] = {table[vgetq_lane_u32(lanes, 0)], table[vgetq_lane_u32(lanes, 1)],
                           table[vgetq_lane_u32(lanes, 2)], table[vgetq_lane_u32(lanes, 3)]};
  return load(values);
}

}  // namespace jang::JANG_ISA
