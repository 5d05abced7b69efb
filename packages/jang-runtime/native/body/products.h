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

// Sums of code * x over a group, for each row of x.
template <int bits, int count>
inline void group_dots(const uint8_t* codes, const float* x, int64_t stride, int group_size,
                       Vec (&sums)[count]) {
  for (int i = 0; i < count; ++i) sums[i] = zero();
  for (int column = 0; column < group_size; column += kChunk) {
    Vec decoded[kPieces];
    decode<bits>(codes + column * bits / 8, decoded);
    for (int piece = 0; piece < kPieces; ++piece) {
      for (int i = 0; i < count; ++i) {
        const float* values = x + i * stride + column + piece * Vec::width;
        sums[i] = fma(decoded[piece], load(values), sums[i]);
      }
    }
  }
}

// Codes of a vector: those at position p of all lanes are decoded together.
template <int bits>
constexpr int kStripe = Vec::width * codes_per_lane(bits);

template <int bits, int count, int... position>
inline void stripe_dots(Words words, const float* x, int64_t stride, Vec (&sums)[count],
                        std::integer_sequence<int, position...>) {
  const auto step = [&](Vec decoded, int place) {
    for (int i = 0; i < count; ++i) {
      sums[i] = fma(decoded, load(x + i * stride + place * Vec::width), sums[i]);
    }
  };
  (step(one_plus_code<bits, position>(words), position), ...);
}

// Where the groups of rows begin to end of a matrix get their scales and biases from.
struct GroupTables {
  GroupTables(const Matrix& matrix, int64_t end_row)
      : scales(matrix.scales, matrix.type, end_row * matrix.groups()),
        biases(matrix.biases, matrix.type, end_row * matrix.groups()) {}

  GroupFloats scales;
  GroupFloats biases;
};

template <int bits, int count>
inline void packed_row(const Matrix& matrix, const uint8_t* codes, GroupTables& tables,
                       Words lanes, int64_t row, const Rows& x, float* out, int64_t out_stride) {
  constexpr float kSteps = 1 << bits;
  const int groups = matrix.groups();
  Vec scaled[count];
  Vec biased[count];
  for (int i = 0; i < count; ++i) scaled[i] = biased[i] = zero();
  for (int begin = 0; begin < groups; begin += GroupFloats::kAtOnce) {
    const int some = std::min(groups - begin, GroupFloats::kAtOnce);
    const float* scales = tables.scales.from(row * groups + begin);
    const float* biases = tables.biases.from(row * groups + begin);
    for (int column = 0; column < some * matrix.group_size; column += kStripe<bits>) {
      const int64_t place = int64_t{begin} * matrix.group_size + column;
      Vec sums[count];
      for (int i = 0; i < count; ++i) sums[i] = zero();
      stripe_dots<bits, count>(load_words<bits>(codes + place / 8 * bits), x.values + place,
                               x.stride, sums,
                               std::make_integer_sequence<int, codes_per_lane(bits)>{});
      const Vec scale = look_up(scales + column / matrix.group_size, lanes);
      for (int i = 0; i < count; ++i) scaled[i] = fma(scale, sums[i], scaled[i]);
    }
    for (int group = 0; group < some; group += Vec::width) {
      const Vec bias = fma(load(scales + group), broadcast(-kSteps), load(biases + group));
      for (int i = 0; i < count; ++i) {
        biased[i] = fma(bias, load(x.group_sums + i * x.sums_stride + begin + group), biased[i]);
      }
    }
  }
  for (int i = 0; i < count; ++i) {
    out[i * out_stride + row] = sum(fma(scaled[i], broadcast(kSteps), biased[i]));
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
  GroupTables tables(matrix, end);
  const int lanes_of_group = std::min(matrix.group_size / codes_per_lane(bits), Vec::width);
  const Words lanes = lane_numbers(std::countr_zero(static_cast<unsigned>(lanes_of_group)));
  const int64_t bytes = matrix.row_bytes();
  for (int row = begin; row < end; ++row) {
    const uint8_t* codes = row_codes.of(matrix.codes + row * bytes, bytes, matrix.codes_end);
    packed_row<bits, count>(matrix, codes, tables, lanes, row, x, out, out_stride);
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
inline void block_sums(int bits, const uint8_t* codes, const float* x, int64_t stride,
                       Vec (&sums)[count]) {
  switch (bits) {
    case 2: return group_dots<2, count>(codes, x, stride, kBlockSize, sums);
    case 3: return group_dots<3, count>(codes, x, stride, kBlockSize, sums);
    case 4: return group_dots<4, count>(codes, x, stride, kBlockSize, sums);
    case 5: return group_dots<5, count>(codes, x, stride, kBlockSize, sums);
    case 6: return group_dots<6, count>(codes, x, stride, kBlockSize, sums);
    default: return group_dots<8, count>(codes, x, stride, kBlockSize, sums);
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
    Vec scaled[count];
    float shifted[count] = {};
    for (int i = 0; i < count; ++i) scaled[i] = zero();
    for (int block = 0; block < blocks; ++block) {
      const float scale = *tables.scales.from(place.first_block + block);
      const float shift = scale * *tables.biases.from(place.first_block + block);
      const int bits = place.bit_map[block];
      Vec sums[count];
      block_sums<count>(bits, codes, x.values + int64_t{block} * kBlockSize, x.stride, sums);
      codes += bits * (kBlockSize / 8);
      for (int i = 0; i < count; ++i) {
        scaled[i] = fma(broadcast(scale), sums[i], scaled[i]);
        shifted[i] += shift * x.group_sums[i * x.sums_stride + block];
      }
    }
    for (int i = 0; i < count; ++i) out[i * out_stride + row] = sum(scaled[i]) - shifted[i];
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
  const int whole = matrix.layout == Layout::packed ? stripe_of(matrix.bits) : kBlockSize;
  const auto up = [](int size, int multiple) { return (size + multiple - 1) / multiple * multiple; };
  return {up(matrix.columns, whole), up(matrix.groups(), Vec::width)};
}

// x in the order in which `dots` takes it; what pads it is 0 already.
inline void prepare(const Matrix& matrix, const float* x, float* values, float* group_sums) {
  const int columns = matrix.columns;
  if (matrix.layout == Layout::packed) {
    const int codes = codes_per_lane(matrix.bits);
    for (int i = 0; i < columns; i += codes) {
      const int stripe = i / (Vec::width * codes);
      float* place = values + int64_t{stripe} * Vec::width * codes + i / codes % Vec::width;
      for (int code = 0; code < codes; ++code) place[code * Vec::width] = x[i + code];
    }
  } else {
    std::copy(x, x + columns, values);
  }
  for (int begin = 0; begin < columns; begin += matrix.group_size) {
    const int end = std::min(begin + matrix.group_size, columns);
    Vec total = zero();
    int i = begin;
    for (; i + Vec::width <= end; i += Vec::width) total = add(total, load(x + i));
    float result = sum(total);
    for (; i < end; ++i) result += x[i];
    group_sums[begin / matrix.group_size] = result;
  }
}

}  // namespace jang::JANG_ISA
