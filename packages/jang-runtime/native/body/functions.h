// Functions of vectors: norms, rotations, softmax, activations.
#pragma once

#include <cmath>
#include <limits>

#include "kernels.h"

namespace jang::JANG_ISA {

// e^x to about one unit in the last place; 0 below -87, where results would be subnormal.
// Cephes' expf: x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial in r.
inline Vec exponential(Vec x) {
  constexpr float kSmallest = -87.0f;
  constexpr float kLargest = 88.0f;
  const Vec bounded = min(max(x, broadcast(kSmallest)), broadcast(kLargest));
  const Vec n = round(mul(bounded, broadcast(1.44269504088896341f)));
  // ln 2 in two parts, the first with few bits, so that n times it is exact.
  Vec r = fma(n, broadcast(-0.693359375f), bounded);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, broadcast(1.0f)));
  return zero_below(mul(p, power_of_two(n)), x, kSmallest);
}

// Applies a function of vectors to `size` values, the last ones padded with zeros.
template <class Function>
inline void over(int64_t size, float* out, Function function) {
  int64_t i = 0;
  for (; i + Vec::width <= size; i += Vec::width) {
    store(out + i, function([i](const float* p) { return load(p + i); }));
  }
  if (const int rest = static_cast<int>(size - i); rest > 0) {
    store_some(out + i, function([i, rest](const float* p) { return load_some(p + i, rest); }),
               rest);
  }
}

// x / (1 + e^-x).
inline Vec silu_of(Vec x) {
  return div(x, add(broadcast(1.0f), exponential(sub(zero(), x))));
}

inline void silu(const float* x, int64_t size, float* out) {
  over(size, out, [x](auto at) { return silu_of(at(x)); });
}

inline void swiglu(const float* gate, const float* up, int64_t size, float* out) {
  over(size, out, [gate, up](auto at) { return mul(silu_of(at(gate)), at(up)); });
}

inline void rms_norm(const float* x, const float* weight, float eps, int size, float* out) {
  Vec squares = zero();
  int i = 0;
  for (; i + Vec::width <= size; i += Vec::width) {
    const Vec value = load(x + i);
    squares = fma(value, value, squares);
  }
  if (const int rest = size - i; rest > 0) {
    const Vec value = load_some(x + i, rest);
    squares = fma(value, value, squares);
  }
  const float mean = sum(squares) / static_cast<float>(size);
  const Vec factor = broadcast(1.0f / std::sqrt(mean + eps));
  if (weight == nullptr) {
    over(size, out, [x, factor](auto at) { return mul(at(x), factor); });
  } else {
    over(size, out, [=](auto at) { return mul(at(weight), mul(at(x), factor)); });
  }
}

inline void rope(const float* x, const float* cosines, const float* sines, int dimensions,
                 bool traditional, float* out) {
  const int half = dimensions / 2;
  if (traditional) {
    for (int i = 0; i < half; ++i) {
      const float a = x[2 * i];
      const float b = x[2 * i + 1];
      out[2 * i] = a * cosines[i] - b * sines[i];
      out[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
    return;
  }
  over(half, out, [=](auto at) {
    return sub(mul(at(x), at(cosines)), mul(at(x + half), at(sines)));
  });
  over(half, out + half, [=](auto at) {
    return add(mul(at(x), at(sines)), mul(at(x + half), at(cosines)));
  });
}

inline float largest_of(const float* x, int size) {
  Vec top = broadcast(-std::numeric_limits<float>::infinity());
  int i = 0;
  for (; i + Vec::width <= size; i += Vec::width) top = max(top, load(x + i));
  float result = largest(top);
  for (; i < size; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

// out = e^(x - shift); returns the sum.
inline float shifted_exponentials(const float* x, float shift, int size, float* out) {
  const Vec down = broadcast(shift);
  Vec total = zero();
  int i = 0;
  for (; i + Vec::width <= size; i += Vec::width) {
    const Vec value = exponential(sub(load(x + i), down));
    store(out + i, value);
    total = add(total, value);
  }
  float result = sum(total);
  if (const int rest = size - i; rest > 0) {
    store_some(out + i, exponential(sub(load_some(x + i, rest), down)), rest);
    for (; i < size; ++i) result += out[i];
  }
  return result;
}

inline void softmax(const float* x, int size, float* out) {
  const float total = shifted_exponentials(x, largest_of(x, size), size, out);
  const Vec factor = broadcast(1.0f / total);
  over(size, out, [out, factor](auto at) { return mul(at(out), factor); });
}

}  // namespace jang::JANG_ISA
