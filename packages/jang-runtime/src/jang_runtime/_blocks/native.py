"""Block matrices by the compiled extension, in float32 on the CPU."""

from types import ModuleType

import mlx.core as mx

from jang_runtime._blocks.matrices import BlockMatrices


class NativeOperations:
    """`BlockOperations` of the extension `jang_cpu`; it stays in MLX's graph."""

    def __init__(self, matrices: BlockMatrices, kernels: ModuleType) -> None:
        self._kernels = kernels
        self._matrices = (
            matrices.qweight,
            matrices.scales,
            matrices.zeros,
            matrices.bit_map,
            matrices.block_offsets,
            matrices.matrix_offsets,
            matrices.out_features,
            matrices.in_features,
        )

    def linear(self, x: mx.array) -> mx.array:
        """`x` `[..., in]` times the transpose of the only matrix, `[..., out]`."""
        return self._kernels.block_linear(x.astype(mx.float32), *self._matrices).astype(x.dtype)

    def gather_linear(self, x: mx.array, indices: mx.array) -> mx.array:
        """Rows times the transposes of chosen matrices; see `BlockOperations`."""
        single = x.astype(mx.float32)
        return self._kernels.block_gather_linear(single, *self._matrices, indices).astype(x.dtype)

    def rows(self, rows: mx.array, dtype: mx.Dtype) -> mx.array:
        """Values `[rows, in]` of the rows with these numbers, counted over all matrices."""
        return self._kernels.block_rows(*self._matrices, rows).astype(dtype)
