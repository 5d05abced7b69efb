#define JANG_ISA avx512
#include "simd/avx512.h"
#include "body/table.h"

namespace jang {

extern constinit const Kernels kernels_avx512 = avx512::table("AVX-512");

}  // namespace jang
