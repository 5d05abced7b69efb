// Products of packed matrices with a few rows of activations, codes decoded in registers.
//
// With MLX layout a vector's lanes take several neighbouring codes each, which are decoded one
// position after the other; x is rearranged once so that it meets them in that order. A code c
// becomes the float 1 + c / 2^bits with two operations and without a conversion, so with
// S = sum((1 + c / 2^bits) x) and X = sum(x) over a group its part of the product,
// scale * sum(c x) + bias * X, is 2^bits * scale * S + (bias - 2^bits * scale) * X.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels.h"

namespace jang::JANG_ISA {

constexpr int kPieces = kChunk / Vec::width;
constexpr int kDotRows = 2;  // matrix rows that one pass over x serves
// Bytes ahead of the codes in use that are asked for: weights come from memory, in short pieces.
constexpr int kFetchAhead = 2048;
// Scales or biases of neighbouring groups as float32, converted many at a time.
class GroupFloats {
 public:
  // `end` is one past the last group that will be asked for.
  GroupFloats(const uint8_t* source, FloatType type, int64_t end)
      : source_(source), type_(type), end_(end) {}

  // Floats from a group on, of which kAtOnce may be used; Vec::width more may be read.
  const float* from(int64_t group) {
    const int64_t wanted = std::min(group + kAtOnce, end_);
    if (group < first_ || wanted > first_ + kHeld) {
      first_ = group;
      convert(group, static_cast<int>(std::min<int64_t>(kHeld, end_ - group)));
    }
    return floats_ + (group - first_);
  }

  static constexpr int kAtOnce = 64;

 private:
  static constexpr int kHeld = 256;

  void convert(int64_t group, int count) {
    if (type_ == FloatType::f32) {
      std::memcpy(floats_, source_ + group * 4, sizeof(float) * static_cast<size_t>(count));
      return;
    }
    const uint8_t* source = source_ + group * 2;
    const auto to_float = [this](const uint16_t* p) {
      return type_ == FloatType::f16 ? load_f16(p) : load_bf16(p);
    };
    int i = 0;
    for (; i + Vec::width <= count; i += Vec::width) {
      store(floats_ + i, to_float(reinterpret_cast<const uint16_t*>(source) + i));
    }
    if (i < count) {
      uint16_t halves[Vec::width] = {};
      std::memcpy(halves, source + 2 * i, sizeof(uint16_t) * static_cast<size_t>(count - i));
      store(floats_ + i, to_float(halves));
    }
  }

  const uint8_t* source_;
  FloatType type_;
  int64_t end_;
  int64_t first_ = -kHeld - kAtOnce;
  // What is read beyond the last group meets zeros in x, but has to be finite.
  float floats_[kHeld + 2 * Vec::width] = {};
};

// Sums of (code - zero) * x over a block, for each row of x.
template <int bits, int count>
inline void block_sums(const uint8_t* codes, Vec zero_code, const float* x, int64_t stride,
                       Vec (&sums)[count]) {
  for (int i = 0; i < count; ++i) sums[i] = zero();
  for (int column = 0; column < kBlockSize; column += kChunk) {
    Vec decoded[kPieces];
    decode<bits>(codes + column * bits / 8, decoded);
    for (int piece = 0; piece < kPieces; ++piece) {
      const Vec value = sub(decoded[piece], zero_code);
      for (int i = 0; i < count; ++i) {
        const float* values = x + i * stride + column + piece * Vec::width;
        sums[i] = fma(value, load(values), sums[i]);
      }
    }
  }
}

// Codes of a vector: those at position p of all lanes are decoded together.
template <int bits>
constexpr int kStripe = Vec::width * codes_per_lane(bits);

// One stripe of some matrix rows with some rows of x: sums[row][i].
template <int bits, int count, int rows, int... position>
inline void stripe_dots(const Words (&words)[rows], const float* x, int64_t stride,
                        Vec (&sums)[rows][count], std::integer_sequence<int, position...>) {
  const auto step = [&](auto place) {
    Vec decoded[rows];
    for (int row = 0; row < rows; ++row) decoded[row] = one_plus_code<bits, place>(words[row]);
    for (int i = 0; i < count; ++i) {
      const Vec values = load(x + i * stride + place * Vec::width);
      for (int row = 0; row < rows; ++row) {
        sums[row][i] = fma(decoded[row], values, sums[row][i]);
      }
    }
  };
  (step(std::integral_constant<int, position>{}), ...);
}

// Where the groups of rows begin to end of a matrix get their scales and biases from.
struct GroupTables {
  GroupTables(const Matrix& matrix, int64_t end_row)
      : scales(matrix.scales, matrix.type, end_row * matrix.groups()),
        biases(matrix.biases, matrix.type, end_row * matrix.groups()) {}

  GroupFloats scales;
  GroupFloats biases;
};

// A few rows of a matrix from `row` on; together they use what is loaded of x.
template <int bits, int count, int rows>
inline void packed_rows(const Matrix& matrix, const uint8_t* const (&codes)[rows],
                        GroupTables (&tables)[kDotRows], Words lanes, int64_t row, const Rows& x,
                        float* out, int64_t out_stride) {
  constexpr float kSteps = 1 << bits;
  const int groups = matrix.groups();
  Vec scaled[rows][count] = {};
  Vec biased[rows][count] = {};
  for (int begin = 0; begin < groups; begin += GroupFloats::kAtOnce) {
    const int some = std::min(groups - begin, GroupFloats::kAtOnce);
    const float* scales[rows];
    const float* biases[rows];
    for (int r = 0; r < rows; ++r) {
      scales[r] = tables[r].scales.from((row + r) * groups + begin);
      biases[r] = tables[r].biases.from((row + r) * groups + begin);
    }
    for (int column = 0; column < some * matrix.group_size; column += kStripe<bits>) {
      const int64_t place = int64_t{begin} * matrix.group_size + column;
      Words words[rows];
      Vec sums[rows][count] = {};
      for (int r = 0; r < rows; ++r) {
        const uint8_t* here = codes[r] + place / 8 * bits;
        __builtin_prefetch(here + kFetchAhead);
        words[r] = load_words<bits>(here);
      }
      stripe_dots<bits>(words, x.values + place, x.stride, sums,
                        std::make_integer_sequence<int, codes_per_lane(bits)>{});
      for (int r = 0; r < rows; ++r) {
        const Vec scale = look_up(scales[r] + column / matrix.group_size, lanes);
        for (int i = 0; i < count; ++i) scaled[r][i] = fma(scale, sums[r][i], scaled[r][i]);
      }
    }
    for (int group = 0; group < some; group += Vec::width) {
      for (int r = 0; r < rows; ++r) {
        const Vec bias = fma(load(scales[r] + group), broadcast(-kSteps), load(biases[r] + group));
        for (int i = 0; i < count; ++i) {
          const Vec group_sums = load(x.group_sums + i * x.sums_stride + begin + group);
          biased[r][i] = fma(bias, group_sums, biased[r][i]);
        }
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < count; ++i) {
      out[i * out_stride + row + r] = sum(fma(scaled[r][i], broadcast(kSteps), biased[r][i]));
    }
  }
}

// A row's codes; where decoding would read past the end of the tensor, a padded copy of them.
class RowCodes {
 public:
  const uint8_t* of(const uint8_t* codes, int64_t bytes, const uint8_t* end) {
    if (codes + bytes + kReadAhead <= end) return codes;
    copy_.assign(static_cast<size_t>(bytes + kReadAhead), 0);
    std::memcpy(copy_.data(), codes, static_cast<size_t>(bytes));
    return copy_.data();
  }

 private:
  std::vector<uint8_t> copy_;
};

template <int bits, int count>
void packed_dots(const Matrix& matrix, const Rows& x, int begin, int end, float* out,
                 int64_t out_stride) {
  RowCodes row_codes;
  GroupTables tables[kDotRows] = {GroupTables(matrix, end), GroupTables(matrix, end)};
  const int lanes_of_group = std::min(matrix.group_size / codes_per_lane(bits), Vec::width);
  const Words lanes = lane_numbers(std::countr_zero(static_cast<unsigned>(lanes_of_group)));
  const int64_t bytes = matrix.row_bytes();
  int row = begin;
  // Rows near the tensor's end may be read from a copy, of which there is one at a time.
  for (; row + kDotRows <= end; row += kDotRows) {
    const uint8_t* const codes[kDotRows] = {matrix.codes + row * bytes,
                                            matrix.codes + (row + 1) * bytes};
    if (codes[1] + bytes + kReadAhead > matrix.codes_end) break;
    packed_rows<bits, count, kDotRows>(matrix, codes, tables, lanes, row, x, out, out_stride);
  }
  for (; row < end; ++row) {
    const uint8_t* const codes[1] = {
        row_codes.of(matrix.codes + row * bytes, bytes, matrix.codes_end)};
    packed_rows<bits, count, 1>(matrix, codes, tables, lanes, row, x, out, out_stride);
  }
}

// Where a block begins, and how many bytes it and those up to the row's end take.
struct BlockRow {
  const uint8_t* codes;
  int64_t bytes;
  const uint8_t* bit_map;
  int64_t first_block;
};

inline BlockRow block_row(const Matrix& matrix, int64_t row) {
  const int blocks = matrix.groups();
  const int64_t first_block = row * blocks;
  const uint8_t* bit_map = matrix.bit_map + first_block;
  // Offsets are modulo 2^32; a matrix alone is smaller than that.
  const uint32_t inside =
      matrix.block_offsets[first_block] - static_cast<uint32_t>(matrix.first);
  int64_t bytes = 0;
  for (int block = 0; block < blocks; ++block) bytes += bit_map[block] * (kBlockSize / 8);
  return {matrix.codes + matrix.first + inside, bytes, bit_map, first_block};
}

template <int count>
inline void block_sums_of(int bits, const uint8_t* codes, Vec zero_code, const float* x,
                          int64_t stride, Vec (&sums)[count]) {
  switch (bits) {
    case 2: return block_sums<2, count>(codes, zero_code, x, stride, sums);
    case 3: return block_sums<3, count>(codes, zero_code, x, stride, sums);
    case 4: return block_sums<4, count>(codes, zero_code, x, stride, sums);
    case 5: return block_sums<5, count>(codes, zero_code, x, stride, sums);
    case 6: return block_sums<6, count>(codes, zero_code, x, stride, sums);
    default: return block_sums<8, count>(codes, zero_code, x, stride, sums);
  }
}

template <int count>
void block_dots(const Matrix& matrix, const Rows& x, int begin, int end, float* out,
                int64_t out_stride) {
  RowCodes row_codes;
  GroupTables tables(matrix, end);
  const int blocks = matrix.groups();
  for (int row = begin; row < end; ++row) {
    const BlockRow place = block_row(matrix, row);
    const uint8_t* codes = row_codes.of(place.codes, place.bytes, matrix.codes_end);
    Vec scaled[count] = {};
    for (int block = 0; block < blocks; ++block) {
      const Vec scale = broadcast(*tables.scales.from(place.first_block + block));
      const Vec zero_code = broadcast(*tables.biases.from(place.first_block + block));
      const int bits = place.bit_map[block];
      Vec sums[count];
      block_sums_of<count>(bits, codes, zero_code, x.values + int64_t{block} * kBlockSize,
                           x.stride, sums);
      codes += bits * (kBlockSize / 8);
      for (int i = 0; i < count; ++i) scaled[i] = fma(scale, sums[i], scaled[i]);
    }
    for (int i = 0; i < count; ++i) out[i * out_stride + row] = sum(scaled[i]);
  }
}

inline Vec load_type(const uint8_t* p, FloatType type) {
  switch (type) {
    case FloatType::f16: return load_f16(reinterpret_cast<const uint16_t*>(p));
    case FloatType::bf16: return load_bf16(reinterpret_cast<const uint16_t*>(p));
    case FloatType::f32: break;
  }
  return load(reinterpret_cast<const float*>(p));
}

// The last `count` floats of a row, padded with zeros.
inline Vec load_type_some(const uint8_t* p, FloatType type, int count) {
  alignas(64) uint8_t padded[sizeof(float) * Vec::width] = {};
  std::memcpy(padded, p, static_cast<size_t>(count * (type == FloatType::f32 ? 4 : 2)));
  return load_type(padded, type);
}

template <int count>
void float_dots(const Matrix& matrix, const Rows& x, int begin, int end, float* out,
                int64_t out_stride) {
  const int size = matrix.float_size();
  for (int row = begin; row < end; ++row) {
    const uint8_t* values = matrix.codes + row * matrix.row_bytes();
    Vec sums[count];
    for (int i = 0; i < count; ++i) sums[i] = zero();
    int column = 0;
    for (; column + Vec::width <= matrix.columns; column += Vec::width) {
      const Vec w = load_type(values + int64_t{column} * size, matrix.type);
      for (int i = 0; i < count; ++i) {
        sums[i] = fma(w, load(x.values + i * x.stride + column), sums[i]);
      }
    }
    if (const int rest = matrix.columns - column; rest > 0) {
      const Vec w = load_type_some(values + int64_t{column} * size, matrix.type, rest);
      for (int i = 0; i < count; ++i) {
        sums[i] = fma(w, load_some(x.values + i * x.stride + column, rest), sums[i]);
      }
    }
    for (int i = 0; i < count; ++i) out[i * out_stride + row] = sum(sums[i]);
  }
}

template <int count>
void dots_of(const Matrix& matrix, const Rows& x, int begin, int end, float* out,
             int64_t out_stride) {
  if (matrix.layout == Layout::blocks) {
    return block_dots<count>(matrix, x, begin, end, out, out_stride);
  }
  if (matrix.layout == Layout::floats) {
    return float_dots<count>(matrix, x, begin, end, out, out_stride);
  }
  switch (matrix.bits) {
    case 2: return packed_dots<2, count>(matrix, x, begin, end, out, out_stride);
    case 3: return packed_dots<3, count>(matrix, x, begin, end, out, out_stride);
    case 4: return packed_dots<4, count>(matrix, x, begin, end, out, out_stride);
    case 5: return packed_dots<5, count>(matrix, x, begin, end, out, out_stride);
    case 6: return packed_dots<6, count>(matrix, x, begin, end, out, out_stride);
    default: return packed_dots<8, count>(matrix, x, begin, end, out, out_stride);
  }
}

inline void dots(const Matrix& matrix, const Rows& x, int begin, int end, float* out,
                 int64_t out_stride) {
  switch (x.count) {
    case 1: return dots_of<1>(matrix, x, begin, end, out, out_stride);
    case 2: return dots_of<2>(matrix, x, begin, end, out, out_stride);
    case 3: return dots_of<3>(matrix, x, begin, end, out, out_stride);
    default: return dots_of<4>(matrix, x, begin, end, out, out_stride);
  }
}

inline int stripe_of(int bits) { return Vec::width * codes_per_lane(bits); }

inline RowsShape rows_shape(const Matrix& matrix) {
  if (matrix.layout == Layout::floats) return {matrix.columns, 0};
  const auto up = [](int size, int multiple) { return (size + multiple - 1) / multiple * multiple; };
  if (matrix.layout == Layout::blocks) return {up(matrix.columns, kBlockSize), 0};
  return {up(matrix.columns, stripe_of(matrix.bits)), up(matrix.groups(), Vec::width)};
}

// x in the order in which `dots` takes it; what pads it is 0 already.
inline void prepare(const Matrix& matrix, const float* x, float* values, float* group_sums) {
  const int columns = matrix.columns;
  if (matrix.layout == Layout::blocks) {
    std::copy(x, x + columns, values);
    return;
  }
  const int codes = codes_per_lane(matrix.bits);
  for (int i = 0; i < columns; i += codes) {
    const int stripe = i / (Vec::width * codes);
    float* place = values + int64_t{stripe} * Vec::width * codes + i / codes % Vec::width;
    for (int code = 0; code < codes; ++code) place[code * Vec::width] = x[i + code];
  }
  for (int group = 0; group < matrix.groups(); ++group) {
    Vec total = zero();
    for (int i = 0; i < matrix.group_size; i += Vec::width) {
      total = add(total, load(x + int64_t{group} * matrix.group_size + i));
    }
    group_sums[group] = sum(total);
  }
}

}  // namespace jang::JANG_ISA
