"""Block matrices by kernels of ours, on Metal and CUDA."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, cast

import mlx.core as mx

from jang_runtime._blocks.kernel_texts import INPUTS, GpuBackend, KernelName, kernel_text
from jang_runtime._blocks.matrices import BlockMatrices

# Up to so many vectors the kernel for vectors is the faster one; four go through at once.
_MOST_VECTORS: Final = 8
# Rows of x for each matrix from which on tiles pay.
_ROWS_PER_MATRIX: Final = 4

_SIMD_SIZE: Final = 32
_SIMD_GROUPS: Final = 4
_OUT_ROWS: Final = 2
_ROW_THREADS: Final = 128
_TILE_SIDE: Final = 64
_TILE_THREADS: Final = 128

Kernel = Callable[..., list[mx.array]]


@cache
def gpu_kernels(backend: GpuBackend) -> Mapping[KernelName, Kernel]:
    """MLX's kernels of our texts; they are compiled when they first run."""
    make = mx.fast.metal_kernel if backend == "metal" else mx.fast.cuda_kernel
    kernels: dict[KernelName, Kernel] = {}
    for name in INPUTS:
        text = kernel_text(name, backend)
        made = make(
            name=text.name,
            input_names=text.inputs,
            output_names=[text.output],
            source=text.body,
            header=text.header,
        )
        kernels[name] = cast(Kernel, made)
    return kernels


class KernelOperations:
    """`BlockOperations` on a GPU; sums are float32, results of the type of `x`."""

    def __init__(self, matrices: BlockMatrices, kernels: Mapping[KernelName, Kernel]) -> None:
        self._kernels = kernels
        self._matrices = matrices
        sizes = (matrices.out_features, matrices.in_features, matrices.blocks_per_row)
        # Views: kernels read words, and take halves apart themselves.
        self._arrays = (
            matrices.qweight.view(mx.uint32),
            matrices.scales.view(mx.uint16),
            matrices.zeros.view(mx.uint16),
            matrices.bit_map,
            matrices.block_offsets,
            matrices.matrix_offsets,
            mx.array(sizes, mx.uint32),
        )
        self._only_matrix = mx.zeros((1,), mx.uint32)

    def linear(self, x: mx.array) -> mx.array:
        """`x` `[..., in]` times the transpose of the only matrix, `[..., out]`."""
        rows = mx.reshape(x, (-1, self._matrices.in_features))
        if len(rows) > _MOST_VECTORS:
            y = self._by_tiles(rows, self._only_matrix, len(rows), gathers=False)
        else:
            y = self._by_vectors(rows, self._only_matrix, len(rows), gathers=False)
        return mx.reshape(y, (*x.shape[:-1], self._matrices.out_features))

    def gather_linear(self, x: mx.array, indices: mx.array) -> mx.array:
        """Rows times the transposes of chosen matrices; see `BlockOperations`."""
        multiply = self._by_vectors
        if len(indices) >= _ROWS_PER_MATRIX * self._matrices.matrices:
            multiply = self._by_tiles
        return multiply(x, indices.astype(mx.uint32), len(indices), gathers=True)

    def rows(self, rows: mx.array, dtype: mx.Dtype) -> mx.array:
        """Values `[rows, in]` of the rows with these numbers, counted over all matrices."""
        parts = -(-self._matrices.blocks_per_row * 8 // _ROW_THREADS)
        return self._run(
            "rows",
            [rows.astype(mx.uint32)],
            template=[("T", dtype), ("THREADS", _ROW_THREADS)],
            groups=(len(rows), parts),
            threads=_ROW_THREADS,
            shape=(len(rows), self._matrices.in_features),
            dtype=dtype,
        )

    def _by_vectors(
        self, x: mx.array, indices: mx.array, results: int, *, gathers: bool
    ) -> mx.array:
        x_rows = 1 if gathers or results == 1 else 2 if results == 2 else 4
        out = self._matrices.out_features
        template = [("T", x.dtype), ("X_ROWS", x_rows), ("OUT_ROWS", _OUT_ROWS)]
        return self._run(
            "vector",
            [x, indices],
            template=[*template, ("SIMD_GROUPS", _SIMD_GROUPS), ("GATHERS", gathers)],
            groups=(-(-results // x_rows), -(-out // (_SIMD_GROUPS * _OUT_ROWS))),
            threads=_SIMD_GROUPS * _SIMD_SIZE,
            shape=(results, out),
            dtype=x.dtype,
        )

    def _by_tiles(self, x: mx.array, indices: mx.array, results: int, *, gathers: bool) -> mx.array:
        out = self._matrices.out_features
        return self._run(
            "matrix",
            [x, indices],
            template=[("T", x.dtype), ("GATHERS", gathers)],
            groups=(-(-results // _TILE_SIDE), -(-out // _TILE_SIDE)),
            threads=_TILE_THREADS,
            shape=(results, out),
            dtype=x.dtype,
        )

    def _run(
        self,
        name: KernelName,
        inputs: list[mx.array],
        *,
        template: list[tuple[str, Any]],
        groups: tuple[int, int],
        threads: int,
        shape: tuple[int, int],
        dtype: mx.Dtype,
    ) -> mx.array:
        return self._kernels[name](
            inputs=[*inputs, *self._arrays],
            template=template,
            grid=(groups[0] * threads, groups[1], 1),
            threadgroup=(threads, 1, 1),
            output_shapes=[shape],
            output_dtypes=[dtype],
        )[0]
