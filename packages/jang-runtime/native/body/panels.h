// Panels: neighbouring rows of a matrix as float32, transposed, so that a vector holds one column of
// several rows. A product with a panel needs neither sums within a vector nor x in another order.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "body/dequantize.h"
#include "body/groups.h"

namespace jang::JANG_ISA {

using PanelRows = std::array<int64_t, kPanelRows>;

// The codes of one lane of each row, one column after the other.
template <int bits, int... position>
inline void lane_columns(Words words, Vec scale, Vec offset, float* out,
                         std::integer_sequence<int, position...>) {
  (store(out + position * kPanelRows, fma(one_plus_code<bits, position>(words), scale, offset)),
   ...);
}

template <int bits>
inline void packed_panel(const Matrix& matrix, const std::array<const uint8_t*, kPanelRows>& codes,
                         const GroupColumns<kPanelRows>& groups, int first, int count, float* out) {
  constexpr int kInLane = codes_per_lane(bits);
  const int shift = group_shift(matrix);
  for (int lane = 0; lane < kPanelRows; lane += Vec::width) {
    for (int stripe = 0; stripe < count; stripe += kStripe<bits>) {
      Vec words[Vec::width];
      for (int r = 0; r < Vec::width; ++r) {
        const uint8_t* here = codes[lane + r] + int64_t{first + stripe} / 8 * bits;
        words[r] = floats_of(load_words<bits>(here));
      }
      transpose(words);
      const int lanes = std::min(Vec::width, (count - stripe) / kInLane);
      for (int word = 0; word < lanes; ++word) {
        const int column = stripe + word * kInLane;
        const int group = column >> shift;
        lane_columns<bits>(words_of(words[word]), load(groups.scales[group] + lane),
                           load(groups.offsets[group] + lane), out + column * kPanelRows + lane,
                           std::make_integer_sequence<int, kInLane>{});
      }
    }
  }
}

inline void packed_panel(const Matrix& matrix, const PanelRows& rows, int first, int count,
                         float* out) {
  const int64_t bytes = matrix.row_bytes();
  // Rows near the tensor's end may be read from copies.
  std::array<RowCodes, kPanelRows> row_codes;
  std::array<const uint8_t*, kPanelRows> codes;
  for (int r = 0; r < kPanelRows; ++r) {
    codes[r] = row_codes[r].of(matrix.codes + rows[r] * bytes, bytes, matrix.codes_end);
  }
  GroupColumns<kPanelRows> columns;
  group_columns(matrix, rows, first / matrix.group_size, count / matrix.group_size, columns);
  switch (matrix.bits) {
    case 2: return packed_panel<2>(matrix, codes, columns, first, count, out);
    case 3: return packed_panel<3>(matrix, codes, columns, first, count, out);
    case 4: return packed_panel<4>(matrix, codes, columns, first, count, out);
    case 5: return packed_panel<5>(matrix, codes, columns, first, count, out);
    case 6: return packed_panel<6>(matrix, codes, columns, first, count, out);
    default: return packed_panel<8>(matrix, codes, columns, first, count, out);
  }
}

// Rows that are dequantized as they lie and then turned.
inline void turned_panel(const Matrix& matrix, const PanelRows& rows, float* scratch, float* out) {
  const int columns = matrix.columns;
  for (int lane = 0; lane < kPanelRows; lane += Vec::width) {
    for (int r = 0; r < Vec::width; ++r) {
      const int row = static_cast<int>(rows[lane + r]);
      dequantize(matrix, row, row + 1, scratch + int64_t{r} * columns, columns);
    }
    for (int column = 0; column < columns; column += Vec::width) {
      const int some = std::min(Vec::width, columns - column);
      Vec values[Vec::width];
      for (int r = 0; r < Vec::width; ++r) {
        const float* here = scratch + int64_t{r} * columns + column;
        values[r] = some == Vec::width ? load(here) : load_some(here, some);
      }
      transpose(values);
      for (int k = 0; k < some; ++k) {
        store(out + int64_t{column + k} * kPanelRows + lane, values[k]);
      }
    }
  }
}

inline void panel(const Matrix& matrix, int begin, int first, int count, float* scratch,
                  float* out) {
  PanelRows rows;
  // Beyond the last row it is repeated; nobody takes the results.
  for (int r = 0; r < kPanelRows; ++r) rows[r] = std::min(begin + r, matrix.rows - 1);
  if (matrix.layout == Layout::packed) return packed_panel(matrix, rows, first, count, out);
  turned_panel(matrix, rows, scratch, out);
}

}  // namespace jang::JANG_ISA
