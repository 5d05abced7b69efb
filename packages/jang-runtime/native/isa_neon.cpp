#define JANG_ISA neon
#include "simd/neon.h"
#include "body/table.h"

namespace jang {

// constinit: code of this file may not run before the processor is known to have its instructions.
extern constinit const Kernels kernels_neon = neon::table("NEON");

}  // namespace jang
