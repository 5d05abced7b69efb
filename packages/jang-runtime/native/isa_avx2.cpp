#define JANG_ISA avx2
#include "simd/avx2.h"
#include "body/table.h"

namespace jang {

extern constinit const Kernels kernels_avx2 = avx2::table("AVX2");

}  // namespace jang
