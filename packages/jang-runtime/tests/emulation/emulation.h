// Thread groups of a GPU on one CPU thread: as much of Metal and CUDA as our kernels use.
//
// Each GPU thread is a fiber. It runs until it has to wait, for all threads of its group at a barrier
// or for all lanes of its SIMD group in a reduction; then the next one runs. A group that only waits
// is an error, as are reads and writes beyond arrays (see the sanitizers in the test).
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace emulation {

constexpr uint32_t simd_size = 32;

struct Meeting {
  uint32_t arrived = 0, round = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool ended = false;
};

struct Group {
  uint32_t x = 0, y = 0, running = 0, threads = 0;
  uint64_t events = 0;
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  Meeting all;
  std::vector<Meeting> simds;
  std::vector<uint64_t> slots;
  std::function<void()> kernel;
};

inline Group group;

inline uint32_t lane() { return group.running % simd_size; }
inline uint32_t simd_group() { return group.running / simd_size; }

inline void meet(Meeting& meeting, uint32_t expected) {
  const uint32_t round = meeting.round;
  ++group.events;
  if (++meeting.arrived == expected) {
    meeting.arrived = 0;
    ++meeting.round;
    return;
  }
  while (meeting.round == round) {
    const uint32_t self = group.running;
    swapcontext(&group.fibers[self].context, &group.scheduler);
  }
}

inline void barrier() { meet(group.all, group.threads); }
inline void meet_simd() { meet(group.simds[simd_group()], simd_size); }

// What the lane `from` of the SIMD group has for this value.
template <typename Value>
Value exchange(Value value, uint32_t from) {
  static_assert(sizeof(Value) <= sizeof(uint64_t));
  std::memcpy(&group.slots[group.running], &value, sizeof(Value));
  meet_simd();
  Value found;
  std::memcpy(&found, &group.slots[simd_group() * simd_size + from % simd_size], sizeof(Value));
  meet_simd();
  return found;
}

inline void run_fiber() {
  group.kernel();
  group.fibers[group.running].ended = true;
  ++group.events;
  // To the scheduler, for good.
  swapcontext(&group.fibers[group.running].context, &group.scheduler);
}

inline void run_group(uint32_t x, uint32_t y, uint32_t threads, const std::function<void()>& kernel) {
  constexpr size_t stack_size = 1 << 17;
  group.x = x, group.y = y, group.threads = threads, group.kernel = kernel;
  group.all = {};
  group.simds.assign(threads / simd_size, {});
  group.slots.assign(threads, 0);
  group.fibers.resize(threads);
  for (Fiber& fiber : group.fibers) {
    if (!fiber.stack) fiber.stack = std::make_unique<char[]>(stack_size);
    fiber.ended = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_size;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  for (bool any = true; any;) {
    any = false;
    const uint64_t before = group.events;
    for (uint32_t n = 0; n < threads; ++n) {
      if (group.fibers[n].ended) continue;
      any = true;
      group.running = n;
      swapcontext(&group.scheduler, &group.fibers[n].context);
    }
    if (any && group.events == before) {
      std::fprintf(stderr, "the threads of a group wait for each other\n");
      std::exit(3);
    }
  }
}

inline float half_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits >> 15) << 31, exponent = bits >> 10 & 31, rest = bits & 1023;
  float value = exponent == 31 ? (rest ? NAN : INFINITY)
      : exponent ? std::ldexp(float(1024 + rest), int(exponent) - 25)
                 : std::ldexp(float(rest), -24);
  return sign ? -value : value;
}

// To nearest, ties to even, as hardware does.
inline uint16_t float_to_half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) return 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size == 0) return sign;
  int exponent;
  std::frexp(size, &exponent);
  const int step = std::max(exponent - 11, -24);
  const uint32_t number = uint32_t(std::nearbyint(std::ldexp(size, -step)));
  if (step == -24) return uint16_t(sign | number);
  return uint16_t(sign | ((uint32_t(step + 24) << 10) + number));
}

inline uint16_t float_to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (std::isnan(value)) return 0x7fc0;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float bfloat_to_float(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

}  // namespace emulation

struct half {
  uint16_t bits = 0;
  half() = default;
  explicit half(float value) : bits(emulation::float_to_half(value)) {}
  explicit operator float() const { return emulation::half_to_float(bits); }
};

struct bfloat {
  uint16_t bits = 0;
  bfloat() = default;
  explicit bfloat(float value) : bits(emulation::float_to_bfloat(value)) {}
  explicit operator float() const { return emulation::bfloat_to_float(bits); }
};

struct float4 {
  float x, y, z, w;
};
struct uint4 {
  uint32_t x, y, z, w;
};

// ---- Metal ---------------------------------------------------------------------------------------

using float16_t = half;
using bfloat16_t = bfloat;
using uint = uint32_t;

namespace metal {

struct uint3 {
  uint32_t x, y, z;
};
struct ulong2 {
  uint64_t x, y;
  ulong2(uint64_t a, uint64_t b) : x(a), y(b) {}
};

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline void threadgroup_barrier(mem_flags) { emulation::barrier(); }

template <typename To, typename From>
To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename Value>
Value simd_shuffle(Value value, uint16_t from) {
  return emulation::exchange(value, from);
}
inline float simd_sum(float value) {
  for (uint32_t distance = 16; distance > 0; distance /= 2) {
    value += emulation::exchange(value, emulation::lane() ^ distance);
  }
  return value;
}

// Each lane has the whole matrix, which gives the same numbers.
template <typename T, int Columns, int Rows>
struct simdgroup_matrix {
  T values[Rows][Columns];
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;

template <typename T, int Columns, int Rows>
simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Columns, Rows> made;
  for (auto& row : made.values) std::fill_n(row, Columns, value);
  return made;
}
inline void simdgroup_load(
    simdgroup_float8x8& to, const float* from, uint64_t pitch = 8, ulong2 origin = {0, 0},
    bool transpose = false) {
  for (int row = 0; row < 8; ++row) {
    for (int column = 0; column < 8; ++column) {
      const uint64_t y = origin.y + (transpose ? column : row);
      const uint64_t x = origin.x + (transpose ? row : column);
      to.values[row][column] = from[y * pitch + x];
    }
  }
}
inline void simdgroup_store(const simdgroup_float8x8& from, float* to, uint64_t pitch = 8) {
  for (int row = 0; row < 8; ++row) {
    for (int column = 0; column < 8; ++column) {
      to[row * pitch + column] = from.values[row][column];
    }
  }
}
inline void simdgroup_multiply_accumulate(
    simdgroup_float8x8& to, const simdgroup_float8x8& a, const simdgroup_float8x8& b,
    const simdgroup_float8x8& c) {
  simdgroup_float8x8 made = c;
  for (int row = 0; row < 8; ++row) {
    for (int column = 0; column < 8; ++column) {
      for (int k = 0; k < 8; ++k) made.values[row][column] += a.values[row][k] * b.values[k][column];
    }
  }
  to = made;
}

}  // namespace metal

#define device
#define constant
#define thread
// The threads of a group share it; groups run one after the other.
#define threadgroup static

// ---- CUDA ----------------------------------------------------------------------------------------

using __half = half;
using __nv_bfloat16 = bfloat;

#define __device__
#define __global__
#define __shared__ static
#define __grid_constant__

struct Shape {
  int32_t sizes[8];
  int32_t operator[](int n) const { return sizes[n]; }
};

struct Place {
  uint32_t x, y;
};
#define threadIdx (Place{emulation::group.running, 0})
#define blockIdx (Place{emulation::group.x, emulation::group.y})

inline void __syncthreads() { emulation::barrier(); }
inline half __ushort_as_half(uint16_t bits) {
  half made;
  made.bits = bits;
  return made;
}
inline float __half2float(half value) { return float(value); }
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
template <typename Value>
Value __shfl_sync(uint32_t, Value value, uint32_t from) {
  return emulation::exchange(value, from);
}
template <typename Value>
Value __shfl_xor_sync(uint32_t, Value value, uint32_t distance) {
  return emulation::exchange(value, emulation::lane() ^ distance);
}
