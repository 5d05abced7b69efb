// The kernels of one instruction set, which the including file names and brings vectors for.
#pragma once

#include "body/attention.h"
#include "body/dequantize.h"
#include "body/functions.h"
#include "body/panels.h"
#include "body/products.h"
#include "body/strips.h"
#include "body/tiles.h"

namespace jang::JANG_ISA {

// A constant: code of an instruction set may not run before the processor is known to have it, so
// nothing of it fills the table while the module is loaded.
constexpr Kernels table(const char* name) {
  return {
      .name = name,
      .rows_shape = rows_shape,
      .prepare = prepare,
      .dots = dots,
      .strip_sums = kStripSums,
      .interleave = interleave,
      .strips = strips,
      .dequantize = dequantize,
      .panel = panel,
      .tile_dots = tile_dots,
      .tile_sums = tile_sums,
      .attention = attention,
      .rms_norm = rms_norm,
      .rope = rope,
      .softmax = softmax,
      .silu = silu,
      .swiglu = swiglu,
  };
}

}  // namespace jang::JANG_ISA
