"""Block matrices by kernels of ours, on Metal and CUDA."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Final, cast

import mlx.core as mx

from jang_runtime._blocks.kernel_texts import (
    OUTPUT,
    Constants,
    GpuBackend,
    KernelName,
    kernel_text,
)
from jang_runtime._blocks.matrices import BlockMatrices

# Up to so many vectors the kernel for vectors is the faster one; four go through at once.
_MOST_VECTORS: Final = 8
# Rows of x for each matrix from which on tiles pay.
_ROWS_PER_MATRIX: Final = 4

# How the kernels divide their work; see vector.body, rows.body and matrix.body.
_SIMD_SIZE: Final = 32
_SIMD_GROUPS: Final = 4
_OUT_ROWS: Final = 2
_STEPS: Final = 4
_CHUNK: Final = 32
_ROW_THREADS: Final = 128
_TILE_SIDE: Final = 64
_TILE_THREADS: Final = 128

#: A kernel of MLX: called with inputs, grid, threadgroup, output_shapes and output_dtypes.
Kernel = Callable[..., list[mx.array]]
#: Makes a kernel of a name, the type of vectors, and constants.
KernelMaker = Callable[[KernelName, mx.Dtype, Constants], Kernel]


@cache
def gpu_kernel(
    backend: GpuBackend, name: KernelName, dtype: mx.Dtype, constants: Constants
) -> Kernel:
    """A kernel of ours; it is compiled when it first runs."""
    text = kernel_text(name, backend, dtype, constants)
    make = mx.fast.metal_kernel if backend == "metal" else mx.fast.cuda_kernel
    made = make(
        name=text.name,
        input_names=text.inputs,
        output_names=[OUTPUT],
        source=text.body,
        header=text.header,
    )
    return cast(Kernel, made)


@dataclass(frozen=True)
class _Launch:
    """A kernel with the sizes of its groups: what stays the same from token to token."""

    kernel: Kernel
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]

    def __call__(self, inputs: list[mx.array], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return self.kernel(
            inputs=inputs,
            grid=self.grid,
            threadgroup=self.threadgroup,
            output_shapes=[shape],
            output_dtypes=[dtype],
        )[0]


class KernelOperations:
    """`BlockOperations` on a GPU; sums are float32, results of the type of `x`."""

    def __init__(self, matrices: BlockMatrices, kernels: KernelMaker) -> None:
        self._kernels = kernels
        self._matrices = matrices
        # Views: kernels read words, take halves apart themselves, and see sizes by shapes.
        by_row = (matrices.matrices, matrices.out_features, matrices.blocks_per_row)
        self._arrays = [
            matrices.qweight.view(mx.uint32),
            matrices.scales.view(mx.uint16),
            matrices.zeros.view(mx.uint16),
            mx.reshape(matrices.bit_map, by_row),
            matrices.block_offsets,
        ]
        self._columns = mx.array([matrices.in_features], mx.uint32)
        self._launches: dict[tuple[int, mx.Dtype], _Launch] = {}

    def linear(self, x: mx.array) -> mx.array:
        """`x` `[..., in]` times the transpose of the only matrix, `[..., out]`."""
        rows = mx.reshape(x, (-1, self._matrices.in_features))
        results, dtype = len(rows), x.dtype
        launch = self._launches.get((results, dtype))
        if launch is None:
            vectors = results <= _MOST_VECTORS
            launch = self._vectors(results, dtype) if vectors else self._tiles(results, dtype)
            self._launches[results, dtype] = launch
        shape = (*x.shape[:-1], self._matrices.out_features)
        return launch([rows, *self._arrays], shape, dtype)

    def gather_linear(self, x: mx.array, indices: mx.array) -> mx.array:
        """Rows times the transposes of chosen matrices; see `BlockOperations`."""
        results, matrices = len(indices), self._matrices
        if results >= _ROWS_PER_MATRIX * matrices.matrices:
            launch = self._tiles(results, x.dtype, "gather_matrix")
        else:
            launch = self._vectors(results, x.dtype, "gather_vector", x_rows=1)
        inputs = [x, indices.astype(mx.uint32), matrices.matrix_offsets, *self._arrays]
        return launch(inputs, (results, matrices.out_features), x.dtype)

    def rows(self, rows: mx.array, dtype: mx.Dtype) -> mx.array:
        """Values `[rows, in]` of the rows with these numbers, counted over all matrices."""
        kernel = self._kernels("rows", dtype, (("THREADS", _ROW_THREADS),))
        parts = -(-self._matrices.blocks_per_row * 8 // _ROW_THREADS)
        launch = _Launch(kernel, (len(rows) * _ROW_THREADS, parts, 1), (_ROW_THREADS, 1, 1))
        inputs = [rows.astype(mx.uint32), self._columns, self._matrices.matrix_offsets]
        return launch([*inputs, *self._arrays], (len(rows), self._matrices.in_features), dtype)

    def _vectors(
        self, results: int, dtype: mx.Dtype, name: KernelName = "vector", x_rows: int | None = None
    ) -> _Launch:
        x_rows = x_rows or (results if results <= 2 else 4)
        chunks = -(-self._matrices.blocks_per_row // _CHUNK)
        split = min(4, 2 ** (chunks - 1).bit_length())
        constants = (
            ("X_ROWS", x_rows),
            ("OUT_ROWS", _OUT_ROWS),
            ("SIMD_GROUPS", _SIMD_GROUPS),
            ("SPLIT", split),
            ("STEPS", _STEPS),
        )
        threads = _SIMD_GROUPS * _SIMD_SIZE
        groups = -(-self._matrices.out_features // (_SIMD_GROUPS // split * _OUT_ROWS))
        return _Launch(
            self._kernels(name, dtype, constants),
            (-(-results // x_rows) * threads, groups, 1),
            (threads, 1, 1),
        )

    def _tiles(self, results: int, dtype: mx.Dtype, name: KernelName = "matrix") -> _Launch:
        groups = -(-self._matrices.out_features // _TILE_SIDE)
        return _Launch(
            self._kernels(name, dtype, ()),
            (-(-results // _TILE_SIDE) * _TILE_THREADS, groups, 1),
            (_TILE_THREADS, 1, 1),
        )


def gpu_operations(matrices: BlockMatrices, backend: GpuBackend) -> KernelOperations:
    """The operations of a GPU."""
    return KernelOperations(matrices, partial(gpu_kernel, backend))
