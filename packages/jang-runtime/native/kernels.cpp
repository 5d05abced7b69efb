#include "kernels.h"

#include <atomic>

namespace jang {

#if defined(__x86_64__)
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx2;
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
#endif
extern const Kernels kernels_portable;

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi")) {
    found.push_back(&kernels_avx512);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    found.push_back(&kernels_avx2);
  }
#elif defined(__aarch64__)
  found.push_back(&kernels_neon);
#endif
  found.push_back(&kernels_portable);
  return found;
}

static std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{available_kernels().front()};
  return kernels;
}

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

bool use_kernels(const std::string& name) {
  for (const Kernels* candidate : available_kernels()) {
    if (name == candidate->name) {
      chosen().store(candidate);
      return true;
    }
  }
  return false;
}

}  // namespace jang
