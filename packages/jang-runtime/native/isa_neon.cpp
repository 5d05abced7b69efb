#define JANG_ISA neon
#include "simd/neon.h"
#include "body/table.h"

namespace jang {

extern constinit const Kernels kernels_neon = neon::table("NEON");

}  // namespace jang
