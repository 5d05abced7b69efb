// Matrices as they lie in the files: packed codes, varying blocks, or plain floats.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jang {

enum class Layout { packed, blocks, floats };
enum class FloatType { f32, f16, bf16 };

constexpr int kBlockSize = 64;     // values of a block of block layout
constexpr int kChunk = 16;         // values that are decoded at once
constexpr int kReadAhead = 64;     // bytes beyond a row's codes that decoding may read
constexpr int kMaxDotRows = 4;     // rows of x that one pass over the codes serves
constexpr int kPanelRows = 32;     // matrix rows that are turned into floats at once
constexpr int kPanelColumns = 1024; // columns of packed rows that are, several whole groups
constexpr int kSmallestGroup = 32;

// One matrix [rows, columns], or the first of a stack of them.
//
// packed: codes [rows, columns * bits / 8 bytes], scales and biases [rows, columns / group_size].
// blocks: FORMAT.md, "Block layout"; offsets count from `codes` modulo 2^32, and `first` is where
//   this matrix begins. Rows have ceil(columns / 64) blocks.
// floats: `codes` is [rows, columns] of `type`.
struct Matrix {
  Layout layout = Layout::packed;
  FloatType type = FloatType::f32;  // of scales and biases, or of the values
  int rows = 0;
  int columns = 0;
  int bits = 0;
  int group_size = 0;
  const uint8_t* codes = nullptr;
  const uint8_t* codes_end = nullptr;  // of the whole stack
  const uint8_t* scales = nullptr;
  const uint8_t* biases = nullptr;  // zeros in block layout
  const uint8_t* bit_map = nullptr;
  const uint32_t* block_offsets = nullptr;
  uint64_t first = 0;
  const uint64_t* firsts = nullptr;  // of each matrix of the stack, in block layout

  int float_size() const { return type == FloatType::f32 ? 4 : 2; }
  int groups() const { return group_size == 0 ? 0 : (columns + group_size - 1) / group_size; }
  int64_t row_bytes() const {
    return layout == Layout::floats ? int64_t{columns} * float_size()
                                    : int64_t{columns} * bits / 8;
  }
};

// The matrix at a position of the stack.
inline Matrix nth(const Matrix& stack, int64_t position) {
  Matrix matrix = stack;
  const int64_t groups = stack.layout == Layout::floats ? 0 : int64_t{stack.rows} * stack.groups();
  switch (stack.layout) {
    case Layout::blocks:
      matrix.first = stack.firsts[position];
      matrix.bit_map += position * groups;
      matrix.block_offsets += position * groups;
      break;
    case Layout::packed:
    case Layout::floats:
      matrix.codes += position * stack.rows * stack.row_bytes();
      break;
  }
  if (stack.layout != Layout::floats) {
    matrix.scales += position * groups * stack.float_size();
    matrix.biases += position * groups * stack.float_size();
  }
  return matrix;
}

// Rows of activations, prepared for a matrix: in the order in which its codes are decoded, and
// padded with zeros.
struct Rows {
  const float* values = nullptr;
  int64_t stride = 0;
  int count = 0;
  const float* group_sums = nullptr;  // sum of each group of each row
  int64_t sums_stride = 0;
};

}  // namespace jang
