// Products of matrices with activations, spread over threads.
#pragma once

#include <cstdint>

#include "matrix.h"

namespace jang {

// out[r, :] = matrix x x[r, :]. `x` is [count, columns] with rows `stride` apart, `out`
// [count, out_stride], of which rows of the matrix are written.
void multiply(const Matrix& matrix, const float* x, int64_t stride, int64_t count, float* out,
              int64_t out_stride);

// out[r, :] = matrix number indices[r] of the stack x x[r / repeat, :].
void multiply_gathered(const Matrix& stack, const float* x, int64_t repeat,
                       const uint32_t* indices, int64_t count, float* out);

// out[r, :] = x[r, :] x matrix: [count, rows] to [count, columns], for a matrix used transposed.
void multiply_transposed(const Matrix& matrix, const float* x, int64_t count, float* out);

// out[i, :] = values of row rows[i], counted over all matrices of the stack.
void take_rows(const Matrix& stack, const uint32_t* rows, int64_t count, float* out);

}  // namespace jang
