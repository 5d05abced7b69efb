// Vectors of 16 floats: AVX-512 F, BW, VL, DQ and VBMI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/tables.h"

namespace jang::JANG_ISA {

struct Vec {
  static constexpr int width = 16;
  __m512 v;
};

// Accumulators of a tile of a matrix product: rows of x by rows of w.
constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
// Those of a tile that is summed over rows of w: rows of x by vectors.
constexpr int kSumRows = 8;
constexpr int kSumPieces = 2;
// Rows of x that are multiplied with a vector of matrix rows at once: 8 or 16.
constexpr int kStripSums = 16;

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec broadcast(float value) { return {_mm512_set1_ps(value)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }
// `count` values, 0 to width - 1; the others are 0.
inline Vec load_some(const float* p, int count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }
inline void store_some(float* p, Vec a, int count) { _mm512_mask_storeu_ps(p, first(count), a.v); }
inline Vec load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec load_bf16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// To the nearest integer.
inline Vec round(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2 to the power of whole numbers from -126 to 127.
inline Vec power_of_two(Vec a) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
// `a` where x is not below the limit, else 0.
inline Vec zero_below(Vec a, Vec x, float limit) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ), a.v)};
}
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
// The sums of four vectors.
inline void store_sums(float* p, const Vec (&a)[4]) {
  const auto pairs = [](__m512 b, __m512 c) {
    return _mm512_add_ps(_mm512_unpacklo_ps(b, c), _mm512_unpackhi_ps(b, c));
  };
  const __m512d low = _mm512_castps_pd(pairs(a[0].v, a[1].v));
  const __m512d high = _mm512_castps_pd(pairs(a[2].v, a[3].v));
  const __m512 quads = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                                     _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(quads),
                                    _mm512_extractf32x8_ps(quads, 1));
  _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
inline float largest(Vec a) { return _mm512_reduce_max_ps(a.v); }

// 16 codes of `bits` bits as floats; reads 16 bytes.
template <int bits>
inline void decode(const uint8_t* p, Vec (&out)[1]) {
  static constexpr Spread spread = make_spread(bits, 16);
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  if constexpr (bits == 8) {
    out[0].v = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(packed));
  } else {
    const __m512i bytes = _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(packed), _mm512_load_si512(spread.bytes));
    const __m512i codes = _mm512_srlv_epi32(bytes, _mm512_load_si512(spread.shifts));
    if constexpr (bits <= 4) {
      // The lookup takes only the low four bits of an index, so that no mask is needed.
      constexpr int m = (1 << bits) - 1;
      const __m512 values = _mm512_setr_ps(
          0, 1, 2 & m, 3 & m, 4 & m, 5 & m, 6 & m, 7 & m, 8 & m, 9 & m, 10 & m, 11 & m, 12 & m,
          13 & m, 14 & m, 15 & m);
      out[0].v = _mm512_permutexvar_ps(codes, values);
    } else {
      const __m512i mask = _mm512_set1_epi32((1 << bits) - 1);
      out[0].v = _mm512_cvtepi32_ps(_mm512_and_si512(codes, mask));
    }
  }
}

using Words = __m512i;

// codes_per_lane codes in each lane, the first lowest; reads 64 bytes.
template <int bits>
inline Words load_words(const uint8_t* p) {
  const Words packed = _mm512_loadu_si512(p);
  if constexpr (bits * codes_per_lane(bits) == 32) return packed;
  static constexpr Spread spread = make_lane_spread(bits, 16, false);
  // A zero byte's index is taken modulo 64; what it brings in is masked off later.
  const Words words = _mm512_permutexvar_epi8(_mm512_load_si512(spread.bytes), packed);
  if constexpr (bits != 5) return words;
  return _mm512_srlv_epi32(words, _mm512_load_si512(spread.shifts));
}

inline Words words_of(Vec a) { return _mm512_castps_si512(a.v); }
inline Vec floats_of(Words a) { return {_mm512_castsi512_ps(a)}; }

// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vec (&a)[16]) {
  Vec pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i].v = _mm512_unpacklo_ps(a[i].v, a[i + 1].v);
    pairs[i + 1].v = _mm512_unpackhi_ps(a[i].v, a[i + 1].v);
  }
  const auto low = [](Vec b, Vec c) {
    return Vec{_mm512_castpd_ps(
        _mm512_unpacklo_pd(_mm512_castps_pd(b.v), _mm512_castps_pd(c.v)))};
  };
  const auto high = [](Vec b, Vec c) {
    return Vec{_mm512_castpd_ps(
        _mm512_unpackhi_pd(_mm512_castps_pd(b.v), _mm512_castps_pd(c.v)))};
  };
  // quads[i + j]: lane j of each 128 bits of vectors i to i + 3.
  Vec quads[16];
  for (int i = 0; i < 16; i += 4) {
    quads[i] = low(pairs[i], pairs[i + 2]);
    quads[i + 1] = high(pairs[i], pairs[i + 2]);
    quads[i + 2] = low(pairs[i + 1], pairs[i + 3]);
    quads[i + 3] = high(pairs[i + 1], pairs[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 even_a = _mm512_shuffle_f32x4(quads[j].v, quads[4 + j].v, 0x88);
    const __m512 odd_a = _mm512_shuffle_f32x4(quads[j].v, quads[4 + j].v, 0xdd);
    const __m512 even_b = _mm512_shuffle_f32x4(quads[8 + j].v, quads[12 + j].v, 0x88);
    const __m512 odd_b = _mm512_shuffle_f32x4(quads[8 + j].v, quads[12 + j].v, 0xdd);
    a[j].v = _mm512_shuffle_f32x4(even_a, even_b, 0x88);
    a[4 + j].v = _mm512_shuffle_f32x4(odd_a, odd_b, 0x88);
    a[8 + j].v = _mm512_shuffle_f32x4(even_a, even_b, 0xdd);
    a[12 + j].v = _mm512_shuffle_f32x4(odd_a, odd_b, 0xdd);
  }
}

// 1 + code / 2^bits of the code at a position of each lane.
template <int bits, int position>
inline Vec one_plus_code(Words words) {
  constexpr int shift = fraction_shift(bits, position);
  if constexpr (shift > 0) words = _mm512_slli_epi32(words, shift);
  if constexpr (shift < 0) words = _mm512_srli_epi32(words, -shift);
  constexpr int kAndThenOr = 0xEA;
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      words, _mm512_set1_epi32(fraction_mask(bits)), _mm512_set1_epi32(kOne), kAndThenOr))};
}

// The number of each lane divided by 2^log.
inline Words lane_numbers(int log) {
  const Words lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(log));
}
// table[i] for the i of each lane; reads `width` floats.
inline Vec look_up(const float* table, Words lanes) {
  return {_mm512_permutexvar_ps(lanes, _mm512_loadu_ps(table))};
}

}  // namespace jang::JANG_ISA
