// The kernels, once for each instruction set; the best that the processor has is used.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "matrix.h"

namespace jang {

// Lengths of a prepared row of activations.
struct RowsShape {
  int values;
  int group_sums;
};

// Queries of one key-value head against a range of its keys, for online softmax.
struct AttentionTask {
  const float* queries;  // [rows, query_size], scaled
  int rows;
  int query_size;
  int value_size;
  const float* keys;  // [positions, query_size]
  int64_t key_stride;
  const float* values;  // [positions, value_size]
  int64_t value_stride;
  int begin;  // positions to attend to
  int end;
  // Row r sees the positions below limits[r].
  const int* limits;
  // Of row r: added to its scores where not null, [positions] with a stride; or bool, 0 hides.
  const float* const* bias_rows;
  const uint8_t* const* shown_rows;
  int64_t mask_stride;
  // Results so far: output [rows, value_size] not yet divided by total; largest and total [rows].
  float* output;
  float* largest;
  float* total;
  float* scratch;  // [rows, kKeyTile]
};

constexpr int kKeyTile = 128;       // keys whose scores are held at once
constexpr int kAttentionRows = 16;  // most query rows of a task

struct Kernels {
  const char* name;
  // How long rows prepared for `dots` are.
  RowsShape (*rows_shape)(const Matrix& matrix);
  // A row of x, prepared: `values` and `group_sums` have those lengths and are 0 before.
  void (*prepare)(const Matrix& matrix, const float* x, float* values, float* group_sums);
  // out[i * out_stride + row] = matrix row . x row i, for rows begin to end and all rows of x, of
  // which there are at most kMaxDotRows.
  void (*dots)(const Matrix& matrix, const Rows& x, int begin, int end, float* out,
               int64_t out_stride);
  // Most rows of x that `strips` takes at once.
  int strip_sums;
  // `rows` rows of x as `strips` takes them: [columns, count], a multiple of 4 that has room for
  // the rows. `out` has room for 16 more.
  void (*interleave)(const float* x, int64_t stride, int rows, int columns, int count, float* out);
  // out[i * out_stride + row] = matrix row . x row i, for rows begin to end of a packed matrix and
  // `rows` interleaved rows of x.
  void (*strips)(const Matrix& matrix, int begin, int end, const float* x, int count, int rows,
                 float* out, int64_t out_stride);
  // Values of rows begin to end: [end - begin, stride], only the matrix's own columns.
  void (*dequantize)(const Matrix& matrix, int begin, int end, float* out, int64_t stride);
  // Values of kPanelRows rows from `begin` on and of `count` columns from `first` on, by column:
  // [count, kPanelRows]: all columns, but of packed rows at most kPanelColumns. Beyond the last row
  // anything finite. `scratch` is [kPanelRows, columns].
  void (*panel)(const Matrix& matrix, int begin, int first, int count, float* scratch, float* out);
  // out[i, j] = x row i . w row j.
  void (*tile_dots)(const float* x, int64_t x_stride, int x_rows, const float* w, int64_t w_stride,
                    int w_rows, int size, float* out, int64_t out_stride);
  // out[i, :] += sum over j of x[i, j] * w[j, :].
  void (*tile_sums)(const float* x, int64_t x_stride, int x_rows, const float* w, int64_t w_stride,
                    int w_rows, int size, float* out, int64_t out_stride);
  void (*attention)(const AttentionTask& task);
  void (*rms_norm)(const float* x, const float* weight, float eps, int size, float* out);
  // Rotates `dimensions` of x by angles whose cosines and sines are given; `traditional` pairs
  // neighbours, otherwise the halves are paired.
  void (*rope)(const float* x, const float* cosines, const float* sines, int dimensions,
               bool traditional, float* out);
  void (*softmax)(const float* x, int size, float* out);
  void (*silu)(const float* x, int64_t size, float* out);
  void (*swiglu)(const float* gate, const float* up, int64_t size, float* out);
};

// The kernels in use.
const Kernels& kernels();
// All that this processor can run, the best first.
std::vector<const Kernels*> available_kernels();
// Use the kernels of a name from now on; false if this processor has not got them.
bool use_kernels(const std::string& name);

}  // namespace jang
