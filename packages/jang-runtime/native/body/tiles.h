// Products of float matrices, in tiles whose accumulators stay in registers.
#pragma once

#include <type_traits>

#include "kernels.h"

namespace jang::JANG_ISA {

// Calls a function with the number of rows that are left after whole tiles, if there are any.
template <int tile_rows, typename Function>
inline void with_rest(int rest, Function function) {
  if constexpr (tile_rows > 1) {
    if (rest == tile_rows - 1) {
      function(std::integral_constant<int, tile_rows - 1>{});
    } else {
      with_rest<tile_rows - 1>(rest, function);
    }
  }
}

// out[i, j] = x row i . w row j for a tile of rows by columns; both lie contiguous along `size`.
template <int rows, int columns>
inline void dot_tile(const float* x, int64_t x_stride, const float* w, int64_t w_stride, int size,
                     float* out, int64_t out_stride) {
  Vec sums[rows][columns];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) sums[i][j] = zero();
  }
  int k = 0;
  for (; k + Vec::width <= size; k += Vec::width) {
    Vec left[rows];
    for (int i = 0; i < rows; ++i) left[i] = load(x + i * x_stride + k);
    for (int j = 0; j < columns; ++j) {
      const Vec right = load(w + j * w_stride + k);
      for (int i = 0; i < rows; ++i) sums[i][j] = fma(left[i], right, sums[i][j]);
    }
  }
  if (const int rest = size - k; rest > 0) {
    for (int j = 0; j < columns; ++j) {
      const Vec right = load_some(w + j * w_stride + k, rest);
      for (int i = 0; i < rows; ++i) {
        sums[i][j] = fma(load_some(x + i * x_stride + k, rest), right, sums[i][j]);
      }
    }
  }
  for (int i = 0; i < rows; ++i) {
    if constexpr (columns == 4) {
      store_sums(out + i * out_stride, sums[i]);
    } else {
      for (int j = 0; j < columns; ++j) out[i * out_stride + j] = sum(sums[i][j]);
    }
  }
}

template <int rows>
inline void dot_strip(const float* x, int64_t x_stride, const float* w, int64_t w_stride,
                      int w_rows, int size, float* out, int64_t out_stride) {
  int j = 0;
  for (; j + kTileColumns <= w_rows; j += kTileColumns) {
    dot_tile<rows, kTileColumns>(x, x_stride, w + j * w_stride, w_stride, size, out + j,
                                 out_stride);
  }
  for (; j < w_rows; ++j) {
    dot_tile<rows, 1>(x, x_stride, w + j * w_stride, w_stride, size, out + j, out_stride);
  }
}

inline void tile_dots(const float* x, int64_t x_stride, int x_rows, const float* w,
                      int64_t w_stride, int w_rows, int size, float* out, int64_t out_stride) {
  int i = 0;
  for (; i + kTileRows <= x_rows; i += kTileRows) {
    dot_strip<kTileRows>(x + i * x_stride, x_stride, w, w_stride, w_rows, size,
                         out + i * out_stride, out_stride);
  }
  with_rest<kTileRows>(x_rows - i, [&](auto rest) {
    dot_strip<rest>(x + i * x_stride, x_stride, w, w_stride, w_rows, size, out + i * out_stride,
                    out_stride);
  });
}

// out[i, :] += sum over j of x[i, j] * w[j, :], for `pieces` vectors of columns.
template <int rows, int pieces>
inline void sum_tile(const float* x, int64_t x_stride, const float* w, int64_t w_stride,
                     int w_rows, float* out, int64_t out_stride) {
  Vec sums[rows][pieces];
  for (int i = 0; i < rows; ++i) {
    for (int p = 0; p < pieces; ++p) sums[i][p] = load(out + i * out_stride + p * Vec::width);
  }
  for (int j = 0; j < w_rows; ++j) {
    Vec right[pieces];
    for (int p = 0; p < pieces; ++p) right[p] = load(w + j * w_stride + p * Vec::width);
    for (int i = 0; i < rows; ++i) {
      const Vec left = broadcast(x[i * x_stride + j]);
      for (int p = 0; p < pieces; ++p) sums[i][p] = fma(left, right[p], sums[i][p]);
    }
  }
  for (int i = 0; i < rows; ++i) {
    for (int p = 0; p < pieces; ++p) store(out + i * out_stride + p * Vec::width, sums[i][p]);
  }
}

template <int rows>
inline void sum_strip(const float* x, int64_t x_stride, const float* w, int64_t w_stride,
                      int w_rows, int size, float* out, int64_t out_stride) {
  int k = 0;
  for (; k + kSumPieces * Vec::width <= size; k += kSumPieces * Vec::width) {
    sum_tile<rows, kSumPieces>(x, x_stride, w + k, w_stride, w_rows, out + k, out_stride);
  }
  for (; k + Vec::width <= size; k += Vec::width) {
    sum_tile<rows, 1>(x, x_stride, w + k, w_stride, w_rows, out + k, out_stride);
  }
  for (; k < size; ++k) {
    for (int i = 0; i < rows; ++i) {
      float total = out[i * out_stride + k];
      for (int j = 0; j < w_rows; ++j) total += x[i * x_stride + j] * w[j * w_stride + k];
      out[i * out_stride + k] = total;
    }
  }
}

inline void tile_sums(const float* x, int64_t x_stride, int x_rows, const float* w,
                      int64_t w_stride, int w_rows, int size, float* out, int64_t out_stride) {
  int i = 0;
  for (; i + kSumRows <= x_rows; i += kSumRows) {
    sum_strip<kSumRows>(x + i * x_stride, x_stride, w, w_stride, w_rows, size,
                         out + i * out_stride, out_stride);
  }
  with_rest<kSumRows>(x_rows - i, [&](auto rest) {
    sum_strip<rest>(x + i * x_stride, x_stride, w, w_stride, w_rows, size, out + i * out_stride,
                    out_stride);
  });
}

}  // namespace jang::JANG_ISA
