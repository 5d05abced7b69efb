"""Block matrices by MLX's own operations: for where there is neither a GPU nor the extension.

It is slow, and a second reference for the kernels. Rows are expanded a tile at a time.
"""

from typing import Final

import mlx.core as mx

from jang_format import BLOCK_SIZE
from jang_runtime._blocks.matrices import BlockMatrices, after

# Values that are expanded at once; their indices take about 30 bytes each.
_TILE: Final = 2**18


class PlainOperations:
    """`BlockOperations` on any backend of MLX."""

    def __init__(self, matrices: BlockMatrices) -> None:
        self._matrices = matrices

    def linear(self, x: mx.array) -> mx.array:
        """`x` `[..., in]` times the transpose of the only matrix, `[..., out]`."""
        return self._product(x, mx.array(0, mx.uint32)).astype(x.dtype)

    def gather_linear(self, x: mx.array, indices: mx.array) -> mx.array:
        """Rows times the transposes of chosen matrices; see `BlockOperations`."""
        x = mx.repeat(x, indices.shape[0] // x.shape[0], axis=0)
        matrices = self._matrices.matrices
        if len(x) <= matrices:
            products = [self._product(x[n : n + 1], indices[n]) for n in range(len(x))]
            return mx.concatenate(products).astype(x.dtype)
        out = mx.zeros((len(x), self._matrices.out_features))
        for number in range(matrices):
            # One after the other, or all of them would be in memory.
            matrix = after(mx.array(number, mx.uint32), out)
            out = mx.where((indices == number)[:, None], self._product(x, matrix), out)
        return out.astype(x.dtype)

    def rows(self, rows: mx.array, dtype: mx.Dtype) -> mx.array:
        """Values `[rows, in]` of the rows with these numbers, counted over all matrices."""
        step = self._rows_per_tile
        tiles = [self._expand(rows[n : n + step]) for n in range(0, len(rows), step)]
        return mx.concatenate(tiles).astype(dtype) if tiles else self._expand(rows).astype(dtype)

    @property
    def _rows_per_tile(self) -> int:
        return max(1, _TILE // (self._matrices.blocks_per_row * BLOCK_SIZE))

    def _product(self, x: mx.array, matrix: mx.array) -> mx.array:
        """`x` `[..., in]` times the transpose of one matrix, float32."""
        x = x.astype(mx.float32)
        out, step = self._matrices.out_features, self._rows_per_tile
        products: list[mx.array] = []
        for first in range(0, out, step):
            rows = matrix * out + mx.arange(first, min(first + step, out), dtype=mx.uint32)
            if products:
                # One tile after the other, or all of them would be in memory.
                rows = after(rows, products[-1])
            products.append(x @ self._expand(rows).T)
        return mx.concatenate(products, axis=-1)

    def _expand(self, rows: mx.array) -> mx.array:
        """Values `[rows, in]` in float32, as `jang_format.dequantize` gives them."""
        stored, rows = self._matrices, rows.astype(mx.uint32)
        blocks = rows[:, None] * stored.blocks_per_row + mx.arange(
            stored.blocks_per_row, dtype=mx.uint32
        )
        widths = stored.bit_map[blocks][..., None].astype(mx.uint32)
        first = stored.matrix_offsets[rows // stored.out_features][:, None]
        starts = first + (stored.block_offsets[blocks] - first.astype(mx.uint32))
        places = mx.arange(BLOCK_SIZE, dtype=mx.uint32) * widths
        at = starts[..., None] + places // 8
        low = stored.qweight[at].astype(mx.uint32)
        # The last code of all ends with the last byte, and needs no other.
        high = stored.qweight[mx.minimum(at + 1, stored.qweight.size - 1)].astype(mx.uint32)
        codes = ((low | high << 8) >> places % 8) & (mx.left_shift(1, widths) - 1)
        scales = stored.scales[blocks][..., None].astype(mx.float32)
        zeros = stored.zeros[blocks][..., None].astype(mx.float32)
        # Both products are exact, so the sum is rounded once.
        values = codes.astype(mx.float32) * scales - scales * zeros
        return mx.reshape(values, (len(rows), -1))[:, : stored.in_features]
