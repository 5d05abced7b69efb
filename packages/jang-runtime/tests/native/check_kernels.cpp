// Holds the kernels of every instruction set of this processor against sums in double, on random
// matrices whose memory ends where they do. Built with sanitizers by test_cpu_sanitizers.py.
//
// Usage: check_kernels SEED ROUNDS. Exit status 1 and a line for each result that is off.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "kernels.h"
#include "products.h"
#include "threads.h"

using namespace jang;

namespace {

std::mt19937_64 generator;
int failures = 0;

int number(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(generator);
}
float normal() { return std::normal_distribution<float>()(generator); }

std::vector<float> normals(size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = normal();
  return values;
}

// A half, or the upper half of a float, and the float it stands for.
struct Small {
  uint16_t bits;
  float value;
};

Small small(FloatType type) {
  if (type == FloatType::bf16) {
    const float value = normal() * 0.1f;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits &= 0xffff0000u;
    float kept;
    std::memcpy(&kept, &bits, sizeof kept);
    return {static_cast<uint16_t>(bits >> 16), kept};
  }
  // Normal halves of moderate size, and some subnormal ones.
  const int exponent = number(0, 9) == 0 ? 0 : number(8, 14);
  const int fraction = number(0, 1023);
  const bool negative = number(0, 1) == 1;
  const double size = exponent == 0 ? fraction * 0x1p-24
                                    : std::ldexp(1.0 + fraction / 1024.0, exponent - 15);
  return {static_cast<uint16_t>((negative ? 0x8000 : 0) | exponent << 10 | fraction),
          static_cast<float>(negative ? -size : size)};
}

// Memory of exactly these bytes, so that a byte read beyond them is seen.
using Bytes = std::unique_ptr<uint8_t[]>;

// A random stack of matrices, and its values in double.
struct Stack {
  Matrix matrix;
  int count = 1;
  std::vector<double> values;
  // How large the terms are that a value is made of: what rounding is measured against.
  std::vector<double> sizes;
  Bytes codes, scales, biases, bit_map;
  std::vector<uint32_t> offsets;
  std::vector<uint64_t> firsts;
};

void put_code(uint8_t* row, int64_t bit, int bits, uint32_t code) {
  for (int i = 0; i < bits; ++i, ++bit) {
    if (code >> i & 1) row[bit / 8] = static_cast<uint8_t>(row[bit / 8] | 1 << (bit % 8));
  }
}

void put_float(Bytes& bytes, int64_t place, FloatType type, float value, uint16_t half) {
  if (type == FloatType::f32) {
    std::memcpy(bytes.get() + 4 * place, &value, 4);
  } else {
    std::memcpy(bytes.get() + 2 * place, &half, 2);
  }
}

// One group of codes: its scale, its bias or zero, and its values.
void fill_group(Stack& stack, int64_t group, uint8_t* row, int64_t bit, int bits, int size,
                bool has_zero) {
  const FloatType type = stack.matrix.type;
  const Small scale = small(type == FloatType::f32 ? FloatType::f16 : type);
  const Small bias = small(type == FloatType::f32 ? FloatType::f16 : type);
  put_float(stack.scales, group, type, scale.value, scale.bits);
  put_float(stack.biases, group, type, bias.value, bias.bits);
  const double shift = has_zero ? -double{scale.value} * bias.value : bias.value;
  for (int i = 0; i < size; ++i) {
    const uint32_t code = static_cast<uint32_t>(number(0, (1 << bits) - 1));
    put_code(row, bit + int64_t{i} * bits, bits, code);
    stack.values.push_back(code * double{scale.value} + shift);
    stack.sizes.push_back((1 << bits) * std::abs(double{scale.value}) + std::abs(shift));
  }
}

Stack packed_stack(int count, int rows, int bits, int group_size, int groups, FloatType type) {
  Stack stack;
  stack.count = count;
  Matrix& m = stack.matrix;
  m = {.layout = Layout::packed, .type = type, .rows = rows, .columns = groups * group_size,
       .bits = bits, .group_size = group_size};
  const int64_t all = int64_t{count} * rows;
  const int64_t bytes = all * m.row_bytes();
  stack.codes = std::make_unique<uint8_t[]>(bytes);
  stack.scales = std::make_unique<uint8_t[]>(all * groups * m.float_size());
  stack.biases = std::make_unique<uint8_t[]>(all * groups * m.float_size());
  for (int64_t row = 0; row < all; ++row) {
    for (int group = 0; group < groups; ++group) {
      fill_group(stack, row * groups + group, stack.codes.get() + row * m.row_bytes(),
                 int64_t{group} * group_size * bits, bits, group_size, false);
    }
  }
  m.codes = stack.codes.get();
  m.codes_end = m.codes + bytes;
  m.scales = stack.scales.get();
  m.biases = stack.biases.get();
  return stack;
}

Stack block_stack(int count, int rows, int columns) {
  constexpr int kWidths[] = {2, 3, 4, 5, 6, 8};
  Stack stack;
  stack.count = count;
  Matrix& m = stack.matrix;
  m = {.layout = Layout::blocks, .type = FloatType::f16, .rows = rows, .columns = columns,
       .group_size = kBlockSize};
  const int64_t blocks = int64_t{count} * rows * m.groups();
  stack.scales = std::make_unique<uint8_t[]>(2 * blocks);
  stack.biases = std::make_unique<uint8_t[]>(2 * blocks);
  stack.bit_map = std::make_unique<uint8_t[]>(blocks);
  uint64_t offset = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    if (block % (int64_t{rows} * m.groups()) == 0) stack.firsts.push_back(offset);
    stack.bit_map[block] = static_cast<uint8_t>(kWidths[number(0, 5)]);
    stack.offsets.push_back(static_cast<uint32_t>(offset));
    offset += stack.bit_map[block] * 8u;
  }
  stack.codes = std::make_unique<uint8_t[]>(offset);
  for (int64_t block = 0; block < blocks; ++block) {
    const int column = static_cast<int>(block % m.groups()) * kBlockSize;
    fill_group(stack, block, stack.codes.get() + stack.offsets[block], 0, stack.bit_map[block],
               std::min(kBlockSize, columns - column), true);
  }
  m.codes = stack.codes.get();
  m.codes_end = m.codes + offset;
  m.scales = stack.scales.get();
  m.biases = stack.biases.get();
  m.bit_map = stack.bit_map.get();
  m.block_offsets = stack.offsets.data();
  m.firsts = stack.firsts.data();
  return stack;
}

Stack float_stack(int rows, int columns, FloatType type) {
  Stack stack;
  Matrix& m = stack.matrix;
  m = {.layout = Layout::floats, .type = type, .rows = rows, .columns = columns};
  stack.codes = std::make_unique<uint8_t[]>(rows * m.row_bytes());
  for (int64_t i = 0; i < int64_t{rows} * columns; ++i) {
    const Small value = small(type == FloatType::f32 ? FloatType::f16 : type);
    put_float(stack.codes, i, type, value.value, value.bits);
    stack.values.push_back(value.value);
    stack.sizes.push_back(std::abs(value.value));
  }
  m.codes = stack.codes.get();
  m.codes_end = m.codes + rows * m.row_bytes();
  return stack;
}

void check(const char* what, double found, double expected, double size) {
  // Float sums of up to a few hundred terms; 2^-24 is half a unit in the last place.
  if (std::abs(found - expected) <= 16 * 0x1p-24 * size + 1e-30) return;
  ++failures;
  std::printf("%s, %s: found %.9g, expected %.9g, size %.3g\n", kernels().name, what, found,
              expected, size);
}

struct Sum {
  double value = 0;
  double size = 0;
};

Sum row_product(const Stack& stack, int64_t row, const float* x) {
  Sum sum;
  const int columns = stack.matrix.columns;
  for (int k = 0; k < columns; ++k) {
    sum.value += stack.values[row * columns + k] * x[k];
    sum.size += stack.sizes[row * columns + k] * std::abs(x[k]);
  }
  return sum;
}

void check_products(const Stack& stack, const char* what) {
  const Matrix& m = stack.matrix;
  const int rows = m.rows;
  const int columns = m.columns;
  // Few rows, some and many have kernels of their own.
  const int count = number(0, 3) > 0 ? number(1, 9) : number(10, 40);
  const std::vector<float> x = normals(static_cast<size_t>(count) * columns);
  std::vector<float> out(static_cast<size_t>(count) * rows);
  const Matrix first = nth(m, 0);
  multiply(first, x.data(), columns, count, out.data(), rows);
  for (int i = 0; i < count; ++i) {
    for (int row = 0; row < rows; ++row) {
      const Sum sum = row_product(stack, row, x.data() + i * columns);
      check(what, out[i * rows + row], sum.value, sum.size);
    }
  }
  const int repeat = number(1, 3);
  std::vector<uint32_t> indices;
  for (int i = 0; i < count * repeat; ++i) {
    indices.push_back(static_cast<uint32_t>(number(0, stack.count - 1)));
  }
  std::vector<float> gathered(indices.size() * rows);
  multiply_gathered(m, x.data(), repeat, indices.data(), static_cast<int64_t>(indices.size()),
                    gathered.data());
  for (size_t i = 0; i < indices.size(); ++i) {
    for (int row = 0; row < rows; ++row) {
      const Sum sum = row_product(stack, int64_t{indices[i]} * rows + row,
                                  x.data() + i / repeat * columns);
      check("gathered", gathered[i * rows + row], sum.value, sum.size);
    }
  }
  std::vector<uint32_t> wanted;
  for (int i = 0; i < 5; ++i) {
    wanted.push_back(static_cast<uint32_t>(number(0, stack.count * rows - 1)));
  }
  std::vector<float> taken(wanted.size() * columns);
  take_rows(m, wanted.data(), static_cast<int64_t>(wanted.size()), taken.data());
  for (size_t i = 0; i < taken.size(); ++i) {
    const size_t place = size_t{wanted[i / columns]} * columns + i % columns;
    check("rows", taken[i], stack.values[place], stack.sizes[place]);
  }
  const std::vector<float> y = normals(static_cast<size_t>(count) * rows);
  std::vector<float> back(static_cast<size_t>(count) * columns);
  multiply_transposed(first, y.data(), count, back.data());
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < columns; ++k) {
      Sum sum;
      for (int row = 0; row < rows; ++row) {
        sum.value += stack.values[size_t(row) * columns + k] * y[i * rows + row];
        sum.size += stack.sizes[size_t(row) * columns + k] * std::abs(y[i * rows + row]);
      }
      check("transposed", back[i * columns + k], sum.value, sum.size);
    }
  }
}

void check_functions() {
  const int size = number(1, 70);
  const std::vector<float> x = normals(size);
  const std::vector<float> up = normals(size);
  std::vector<float> out(size);
  double squares = 0, largest = -1e300, total = 0;
  for (float value : x) {
    squares += double{value} * value;
    largest = std::max(largest, double{value});
  }
  for (float value : x) total += std::exp(value - largest);
  kernels().rms_norm(x.data(), up.data(), 1e-5f, size, out.data());
  for (int i = 0; i < size; ++i) {
    const double expected = double{up[i]} * x[i] / std::sqrt(squares / size + 1e-5f);
    check("rms_norm", out[i], expected, std::abs(expected));
  }
  kernels().softmax(x.data(), size, out.data());
  for (int i = 0; i < size; ++i) {
    check("softmax", out[i], std::exp(x[i] - largest) / total, std::exp(x[i] - largest) / total);
  }
  kernels().swiglu(x.data(), up.data(), size, out.data());
  for (int i = 0; i < size; ++i) {
    const double expected = up[i] * x[i] / (1 + std::exp(-double{x[i]}));
    check("swiglu", out[i], expected, std::abs(expected));
  }
}

void check_attention() {
  const int rows = number(1, kAttentionRows);
  const int size = number(1, 70);
  const int value_size = number(1, 70);
  const int positions = number(1, 300);
  const std::vector<float> queries = normals(size_t(rows) * size);
  const std::vector<float> keys = normals(size_t(positions) * size);
  const std::vector<float> values = normals(size_t(positions) * value_size);
  std::vector<float> output(size_t(rows) * value_size), total(rows), scratch(rows * kKeyTile);
  std::vector<float> largest(rows, -std::numeric_limits<float>::infinity());
  std::vector<int> limits;
  for (int r = 0; r < rows; ++r) limits.push_back(number(1, positions));
  kernels().attention({.queries = queries.data(), .rows = rows, .query_size = size,
                       .value_size = value_size, .keys = keys.data(), .key_stride = size,
                       .values = values.data(), .value_stride = value_size, .begin = 0,
                       .end = positions, .limits = limits.data(), .bias_rows = nullptr,
                       .shown_rows = nullptr, .mask_stride = 0, .output = output.data(),
                       .largest = largest.data(), .total = total.data(),
                       .scratch = scratch.data()});
  for (int r = 0; r < rows; ++r) {
    std::vector<double> weights;
    double top = -1e300, sum = 0;
    for (int s = 0; s < limits[r]; ++s) {
      double score = 0;
      for (int i = 0; i < size; ++i) score += double{queries[r * size + i]} * keys[s * size + i];
      weights.push_back(score);
      top = std::max(top, score);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - top);
    for (int k = 0; k < value_size; ++k) {
      double expected = 0;
      for (int s = 0; s < limits[r]; ++s) expected += weights[s] / sum * values[s * value_size + k];
      // Scores of some tens, whose rounding the exponential carries on.
      check("attention", output[r * value_size + k] / total[r], expected, 40);
    }
  }
}

void check_threads() {
  std::vector<std::thread> callers;
  std::atomic<int64_t> done{0};
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&done] {
      for (int round = 0; round < 200; ++round) {
        std::vector<int> seen(round % 17);
        parallel_for(static_cast<int64_t>(seen.size()), [&seen](int64_t i) { ++seen[i]; });
        for (int times : seen) done += times;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  int64_t expected = 0;
  for (int round = 0; round < 200; ++round) expected += 3 * (round % 17);
  check("tasks done", static_cast<double>(done), static_cast<double>(expected), 0);
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  generator.seed(std::strtoull(arguments[1], nullptr, 10));
  const int rounds = std::atoi(arguments[2]);
  constexpr int kWidths[] = {2, 3, 4, 5, 6, 8};
  constexpr int kGroupSizes[] = {32, 64, 128};
  constexpr FloatType kTypes[] = {FloatType::f32, FloatType::f16, FloatType::bf16};
  set_thread_count(3);
  for (const Kernels* each : available_kernels()) {
    use_kernels(each->name);
    for (int round = 0; round < rounds; ++round) {
      for (int bits : kWidths) {
        for (int group_size : kGroupSizes) {
          check_products(packed_stack(number(1, 3), number(1, 40), bits, group_size,
                                      number(1, round % 8 == 0 ? 70 : 6), kTypes[number(0, 2)]),
                         "packed");
        }
      }
      check_products(block_stack(number(1, 3), number(1, 40), number(1, 300)), "blocks");
      check_products(float_stack(number(1, 40), number(1, 100), kTypes[number(0, 2)]), "floats");
      for (int i = 0; i < 10; ++i) check_functions();
      for (int i = 0; i < 5; ++i) check_attention();
    }
  }
  check_threads();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
