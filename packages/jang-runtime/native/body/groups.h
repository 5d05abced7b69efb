// Scales and offsets of groups as a vector holds them that has one matrix row in each lane.
#pragma once

#include <array>
#include <bit>
#include <cstddef>

#include "body/products.h"

namespace jang::JANG_ISA {

// Scales and offsets by group and row, for a value of 1 + code / 2^bits.
template <size_t rows>
struct GroupColumns {
  alignas(64) float scales[kPanelColumns / kSmallestGroup][rows];
  alignas(64) float offsets[kPanelColumns / kSmallestGroup][rows];
};

// Scales or biases of Vec::width groups; those from `end` on are 0.
inline Vec group_floats(const Matrix& matrix, const uint8_t* source, int64_t group, int64_t end) {
  const uint8_t* here = source + group * matrix.float_size();
  if (group + Vec::width <= end) return load_type(here, matrix.type);
  return load_type_some(here, matrix.type, static_cast<int>(end - group));
}

// `count` groups from `first` on, of these rows of the matrix.
template <size_t rows>
inline void group_columns(const Matrix& matrix, const std::array<int64_t, rows>& matrix_rows,
                          int first, int count, GroupColumns<rows>& columns) {
  const float steps = static_cast<float>(1 << matrix.bits);
  const int64_t end = int64_t{matrix.rows} * matrix.groups();
  for (size_t lane = 0; lane < rows; lane += Vec::width) {
    for (int group = 0; group < count; group += Vec::width) {
      Vec scales[Vec::width];
      Vec offsets[Vec::width];
      for (int r = 0; r < Vec::width; ++r) {
        const int64_t place = matrix_rows[lane + r] * matrix.groups() + first + group;
        scales[r] = mul(group_floats(matrix, matrix.scales, place, end), broadcast(steps));
        offsets[r] = sub(group_floats(matrix, matrix.biases, place, end), scales[r]);
      }
      transpose(scales);
      transpose(offsets);
      const int some = std::min(Vec::width, count - group);
      for (int g = 0; g < some; ++g) {
        store(columns.scales[group + g] + lane, scales[g]);
        store(columns.offsets[group + g] + lane, offsets[g]);
      }
    }
  }
}

inline int group_shift(const Matrix& matrix) {
  return std::countr_zero(static_cast<unsigned>(matrix.group_size));
}

}  // namespace jang::JANG_ISA
