#define JANG_ISA portable
#include "simd/portable.h"
#include "body/table.h"

namespace jang {

// constinit: code of this file may not run before the processor is known to have its instructions.
extern constinit const Kernels kernels_portable = portable::table("portable");

}  // namespace jang
