// Vectors of 8 floats: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/tables.h"

namespace jang::JANG_ISA {

struct Vec {
  static constexpr int width = 8;
  __m256 v;
};

// Accumulators of a tile of a matrix product: rows of x by rows of w. There are 16 registers.
constexpr int kTileRows = 3;
constexpr int kTileColumns = 4;
// Those of a tile that is summed over rows of w: rows of x by vectors.
constexpr int kSumRows = 6;
constexpr int kSumPieces = 2;
// Rows of x that are multiplied with a vector of matrix rows at once: 8 or 16.
constexpr int kStripSums = 8;

inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec broadcast(float value) { return {_mm256_set1_ps(value)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline __m256i first(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
// `count` values, 0 to width - 1; the others are 0.
inline Vec load_some(const float* p, int count) { return {_mm256_maskload_ps(p, first(count))}; }
inline void store_some(float* p, Vec a, int count) { _mm256_maskstore_ps(p, first(count), a.v); }
inline Vec load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Vec load_bf16(const uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// To the nearest integer.
inline Vec round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2 to the power of whole numbers from -126 to 127.
inline Vec power_of_two(Vec a) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}
// `a` where x is not below the limit, else 0.
inline Vec zero_below(Vec a, Vec x, float limit) {
  return {_mm256_and_ps(a.v, _mm256_cmp_ps(x.v, _mm256_set1_ps(limit), _CMP_NLT_UQ))};
}
inline float sum(Vec a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
// The sums of four vectors.
inline void store_sums(float* p, const Vec (&a)[4]) {
  const __m256 quads =
      _mm256_hadd_ps(_mm256_hadd_ps(a[0].v, a[1].v), _mm256_hadd_ps(a[2].v, a[3].v));
  _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
}
inline float largest(Vec a) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// 16 codes of `bits` bits as floats; reads 16 bytes at most.
template <int bits>
inline void decode(const uint8_t* p, Vec (&out)[2]) {
  static constexpr Spread spread = make_spread(bits, 8);
  for (int half = 0; half < 2; ++half) {
    // Eight codes take `bits` bytes.
    uint64_t packed;
    std::memcpy(&packed, p + half * bits, sizeof packed);
    __m256i codes = _mm256_shuffle_epi8(
        _mm256_set1_epi64x(static_cast<long long>(packed)),
        _mm256_load_si256(reinterpret_cast<const __m256i*>(spread.bytes)));
    if constexpr (bits != 8) {
      codes = _mm256_srlv_epi32(
          codes, _mm256_load_si256(reinterpret_cast<const __m256i*>(spread.shifts)));
      codes = _mm256_and_si256(codes, _mm256_set1_epi32((1 << bits) - 1));
    }
    out[half].v = _mm256_cvtepi32_ps(codes);
  }
}

using Words = __m256i;

// codes_per_lane codes in each lane, the first lowest; reads 32 bytes.
template <int bits>
inline Words load_words(const uint8_t* p) {
  if constexpr (bits * codes_per_lane(bits) == 32) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  } else {
    static constexpr Spread spread = make_lane_spread(bits, 8, true);
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + quad_bytes(bits)));
    const Words words = _mm256_shuffle_epi8(
        _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1),
        _mm256_load_si256(reinterpret_cast<const __m256i*>(spread.bytes)));
    if constexpr (bits != 5) return words;
    return _mm256_srlv_epi32(
        words, _mm256_load_si256(reinterpret_cast<const __m256i*>(spread.shifts)));
  }
}

inline Words words_of(Vec a) { return _mm256_castps_si256(a.v); }
inline Vec floats_of(Words a) { return {_mm256_castsi256_ps(a)}; }

// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vec (&a)[8]) {
  // quads[i + j]: lane j of each 128 bits of vectors i to i + 3.
  __m256 quads[8];
  for (int i = 0; i < 8; i += 4) {
    const __m256 low_a = _mm256_unpacklo_ps(a[i].v, a[i + 1].v);
    const __m256 high_a = _mm256_unpackhi_ps(a[i].v, a[i + 1].v);
    const __m256 low_b = _mm256_unpacklo_ps(a[i + 2].v, a[i + 3].v);
    const __m256 high_b = _mm256_unpackhi_ps(a[i + 2].v, a[i + 3].v);
    quads[i] = _mm256_shuffle_ps(low_a, low_b, 0x44);
    quads[i + 1] = _mm256_shuffle_ps(low_a, low_b, 0xee);
    quads[i + 2] = _mm256_shuffle_ps(high_a, high_b, 0x44);
    quads[i + 3] = _mm256_shuffle_ps(high_a, high_b, 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    a[j].v = _mm256_permute2f128_ps(quads[j], quads[4 + j], 0x20);
    a[4 + j].v = _mm256_permute2f128_ps(quads[j], quads[4 + j], 0x31);
  }
}

// 1 + code / 2^bits of the code at a position of each lane.
template <int bits, int position>
inline Vec one_plus_code(Words words) {
  constexpr int shift = fraction_shift(bits, position);
  if constexpr (shift > 0) words = _mm256_slli_epi32(words, shift);
  if constexpr (shift < 0) words = _mm256_srli_epi32(words, -shift);
  words = _mm256_and_si256(words, _mm256_set1_epi32(fraction_mask(bits)));
  return {_mm256_castsi256_ps(_mm256_or_si256(words, _mm256_set1_epi32(kOne)))};
}

// The number of each lane divided by 2^log.
inline Words lane_numbers(int log) {
  return _mm256_srl_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm_cvtsi32_si128(log));
}
// table[i] for the i of each lane; reads `width` floats.
inline Vec look_up(const float* table, Words lanes) {
  return {_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), lanes)};
}

}  // namespace jang::JANG_ISA
