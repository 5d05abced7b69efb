#define JANG_ISA portable
#include "simd/portable.h"
#include "body/table.h"

namespace jang {

extern constinit const Kernels kernels_portable = portable::table("portable");

}  // namespace jang
