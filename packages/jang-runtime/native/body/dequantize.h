// Values of matrix rows as float32.
#pragma once

#include "body/products.h"

namespace jang::JANG_ISA {

// How a code becomes a value: both forms are one multiplication and one addition, rounded once
// where scales have 16 bits (FORMAT.md).
inline void scaled_group(const Vec* decoded, Vec scale, Vec bias, float* out, int count) {
  for (int piece = 0; piece < kPieces; ++piece) {
    const int rest = count - piece * Vec::width;
    if (rest <= 0) return;
    const Vec values = fma(decoded[piece], scale, bias);
    if (rest >= Vec::width) {
      store(out + piece * Vec::width, values);
    } else {
      store_some(out + piece * Vec::width, values, rest);
    }
  }
}

// A group of codes of which `count` values are wanted.
template <int bits>
inline void dequantize_group(const uint8_t* codes, float scale, float bias, int count, float* out) {
  for (int column = 0; column < count; column += kChunk) {
    Vec decoded[kPieces];
    decode<bits>(codes + column * bits / 8, decoded);
    scaled_group(decoded, broadcast(scale), broadcast(bias), out + column, count - column);
  }
}

inline void dequantize_group(int bits, const uint8_t* codes, float scale, float bias, int count,
                             float* out) {
  switch (bits) {
    case 2: return dequantize_group<2>(codes, scale, bias, count, out);
    case 3: return dequantize_group<3>(codes, scale, bias, count, out);
    case 4: return dequantize_group<4>(codes, scale, bias, count, out);
    case 5: return dequantize_group<5>(codes, scale, bias, count, out);
    case 6: return dequantize_group<6>(codes, scale, bias, count, out);
    default: return dequantize_group<8>(codes, scale, bias, count, out);
  }
}

// A row of packed codes, whose groups are whole and of one width.
template <int bits>
inline void packed_row(const Matrix& matrix, const uint8_t* codes, GroupTables& tables, int64_t row,
                       float* out) {
  const int groups = matrix.groups();
  for (int begin = 0; begin < groups; begin += GroupFloats::kAtOnce) {
    const int some = std::min(groups - begin, GroupFloats::kAtOnce);
    const float* scales = tables.scales.from(row * groups + begin);
    const float* biases = tables.biases.from(row * groups + begin);
    for (int group = 0; group < some; ++group) {
      const Vec scale = broadcast(scales[group]);
      const Vec bias = broadcast(biases[group]);
      for (int column = 0; column < matrix.group_size; column += kChunk) {
        Vec decoded[kPieces];
        decode<bits>(codes, decoded);
        for (int piece = 0; piece < kPieces; ++piece) {
          store(out + piece * Vec::width, fma(decoded[piece], scale, bias));
        }
        codes += kChunk * bits / 8;
        out += kChunk;
      }
    }
  }
}

inline void packed_row(const Matrix& matrix, const uint8_t* codes, GroupTables& tables, int64_t row,
                       float* out) {
  switch (matrix.bits) {
    case 2: return packed_row<2>(matrix, codes, tables, row, out);
    case 3: return packed_row<3>(matrix, codes, tables, row, out);
    case 4: return packed_row<4>(matrix, codes, tables, row, out);
    case 5: return packed_row<5>(matrix, codes, tables, row, out);
    case 6: return packed_row<6>(matrix, codes, tables, row, out);
    default: return packed_row<8>(matrix, codes, tables, row, out);
  }
}

// A row of blocks, each of a width of its own.
inline void blocks_row(const Matrix& matrix, const uint8_t* codes, const uint8_t* bit_map,
                       GroupTables& tables, int64_t row, float* out) {
  const int blocks = matrix.groups();
  for (int block = 0; block < blocks; ++block) {
    const float scale = *tables.scales.from(row * blocks + block);
    const float zero_code = *tables.biases.from(row * blocks + block);
    const int column = block * kBlockSize;
    dequantize_group(bit_map[block], codes, scale, -(scale * zero_code),
                     std::min(matrix.columns - column, kBlockSize), out + column);
    codes += bit_map[block] * (kBlockSize / 8);
  }
}

inline void float_row(const Matrix& matrix, int64_t row, float* out) {
  const uint8_t* values = matrix.codes + row * matrix.row_bytes();
  const int size = matrix.float_size();
  int column = 0;
  for (; column + Vec::width <= matrix.columns; column += Vec::width) {
    store(out + column, load_type(values + int64_t{column} * size, matrix.type));
  }
  if (const int rest = matrix.columns - column; rest > 0) {
    store_some(out + column, load_type_some(values + int64_t{column} * size, matrix.type, rest),
               rest);
  }
}

inline void dequantize(const Matrix& matrix, int begin, int end, float* out, int64_t stride) {
  RowCodes row_codes;
  GroupTables tables(matrix, matrix.layout == Layout::floats ? 0 : end);
  const int64_t bytes = matrix.row_bytes();
  for (int64_t row = begin; row < end; ++row, out += stride) {
    switch (matrix.layout) {
      case Layout::floats:
        float_row(matrix, row, out);
        break;
      case Layout::packed: {
        const uint8_t* codes = row_codes.of(matrix.codes + row * bytes, bytes, matrix.codes_end);
        packed_row(matrix, codes, tables, row, out);
        break;
      }
      case Layout::blocks: {
        const BlockRow place = block_row(matrix, row);
        const uint8_t* codes = row_codes.of(place.codes, place.bytes, matrix.codes_end);
        blocks_row(matrix, codes, place.bit_map, tables, row, out);
        break;
      }
    }
  }
}

}  // namespace jang::JANG_ISA
