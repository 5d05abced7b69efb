// Products of packed matrices with some rows of activations, a strip of matrix rows at a time, one
// in each lane. Codes are transposed as words, decoded in registers and multiplied at once: nothing
// is stored, and every row of x costs one multiplication for each vector of codes.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "body/groups.h"

namespace jang::JANG_ISA {

using StripRows = std::array<int64_t, Vec::width>;

// x in the order in which strips take it: [columns, count], `count` as `strip_count` says and what
// is beyond `rows` 0. Stores may go Vec::width floats beyond the end.
inline void interleave(const float* x, int64_t stride, int rows, int columns, int count,
                       float* out) {
  for (int column = 0; column < columns; column += Vec::width) {
    const int some = std::min(Vec::width, columns - column);
    for (int first = 0; first < count; first += Vec::width) {
      Vec values[Vec::width];
      for (int r = 0; r < Vec::width; ++r) {
        const float* here = x + (first + r) * stride + column;
        if (first + r >= rows) {
          values[r] = zero();
        } else {
          values[r] = some == Vec::width ? load(here) : load_some(here, some);
        }
      }
      transpose(values);
      // What a vector has beyond `count` is written over by the next column.
      for (int k = 0; k < some; ++k) store(out + int64_t{column + k} * count + first, values[k]);
    }
  }
}

// Calls a function with 0 to count - 1 as constants. Sums that are named by constants alone stay in
// registers from one turn of a loop to the next.
template <int... index, typename Function>
inline void each(std::integer_sequence<int, index...>, Function function) {
  (function(std::integral_constant<int, index>{}), ...);
}

// The codes of one lane of each row, one column after the other, times `count` rows of x.
template <int bits, int count>
inline void lane_sums(Words words, Vec scale, Vec offset, const float* x, Vec (&sums)[count]) {
  each(std::make_integer_sequence<int, codes_per_lane(bits)>{}, [&](auto position) {
    const Vec value = fma(one_plus_code<bits, position>(words), scale, offset);
    each(std::make_integer_sequence<int, count>{}, [&](auto i) {
      sums[i] = fma(broadcast(x[position * count + i]), value, sums[i]);
    });
  });
}

// `columns` columns from `first` on; `codes` and `next` are those of each row, now and of the strip
// that follows.
template <int bits, int count>
inline void strip_sums(const Matrix& matrix, const std::array<const uint8_t*, Vec::width>& codes,
                       int64_t next, int first, int columns, const GroupColumns<Vec::width>& groups,
                       const float* x, Vec (&sums)[count]) {
  constexpr int kInLane = codes_per_lane(bits);
  const int shift = group_shift(matrix);
  for (int stripe = 0; stripe < columns; stripe += kStripe<bits>) {
    Vec words[Vec::width];
    for (int r = 0; r < Vec::width; ++r) {
      const uint8_t* here = codes[r] + int64_t{first + stripe} / 8 * bits;
      __builtin_prefetch(here + next);
      words[r] = floats_of(load_words<bits>(here));
    }
    transpose(words);
    const int lanes = std::min(Vec::width, (columns - stripe) / kInLane);
    for (int word = 0; word < lanes; ++word) {
      const int column = stripe + word * kInLane;
      const int group = column >> shift;
      lane_sums<bits, count>(words_of(words[word]), load(groups.scales[group]),
                             load(groups.offsets[group]), x + int64_t{first + column} * count,
                             sums);
    }
  }
}

template <int bits, int count>
void strip(const Matrix& matrix, int begin, int end, const float* x, int rows, float* out,
           int64_t out_stride) {
  const int64_t bytes = matrix.row_bytes();
  StripRows matrix_rows;
  // Rows near the tensor's end may be read from copies.
  std::array<RowCodes, Vec::width> row_codes;
  std::array<const uint8_t*, Vec::width> codes;
  for (int r = 0; r < Vec::width; ++r) {
    // Beyond the last row it is repeated; nobody takes the results.
    matrix_rows[r] = std::min(begin + r, end - 1);
    codes[r] = row_codes[r].of(matrix.codes + matrix_rows[r] * bytes, bytes, matrix.codes_end);
  }
  Vec sums[count];
  each(std::make_integer_sequence<int, count>{}, [&](auto i) { sums[i] = zero(); });
  for (int first = 0; first < matrix.columns; first += kPanelColumns) {
    const int columns = std::min(kPanelColumns, matrix.columns - first);
    GroupColumns<Vec::width> groups;
    group_columns(matrix, matrix_rows, first / matrix.group_size, columns / matrix.group_size,
                  groups);
    strip_sums<bits, count>(matrix, codes, Vec::width * bytes, first, columns, groups, x, sums);
  }
  each(std::make_integer_sequence<int, count>{}, [&](auto i) {
    if (i >= rows) return;
    float* place = out + i * out_stride + begin;
    if (end - begin == Vec::width) {
      store(place, sums[i]);
    } else {
      store_some(place, sums[i], end - begin);
    }
  });
}

template <int count>
inline void strips_of(const Matrix& matrix, int begin, int end, const float* x, int rows,
                      float* out, int64_t out_stride) {
  for (; begin < end; begin += Vec::width) {
    const int last = std::min(begin + Vec::width, end);
    switch (matrix.bits) {
      case 2: strip<2, count>(matrix, begin, last, x, rows, out, out_stride); break;
      case 3: strip<3, count>(matrix, begin, last, x, rows, out, out_stride); break;
      case 4: strip<4, count>(matrix, begin, last, x, rows, out, out_stride); break;
      case 5: strip<5, count>(matrix, begin, last, x, rows, out, out_stride); break;
      case 6: strip<6, count>(matrix, begin, last, x, rows, out, out_stride); break;
      default: strip<8, count>(matrix, begin, last, x, rows, out, out_stride); break;
    }
  }
}

inline void strips(const Matrix& matrix, int begin, int end, const float* x, int count, int rows,
                   float* out, int64_t out_stride) {
  if constexpr (kStripSums >= 16) {
    if (count == 16) return strips_of<16>(matrix, begin, end, x, rows, out, out_stride);
    if (count == 12) return strips_of<12>(matrix, begin, end, x, rows, out, out_stride);
  }
  if (count == 8) return strips_of<8>(matrix, begin, end, x, rows, out, out_stride);
  return strips_of<4>(matrix, begin, end, x, rows, out, out_stride);
}

}  // namespace jang::JANG_ISA
