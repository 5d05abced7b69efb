"""Modules over block matrices, called as mlx-lm calls its quantized ones."""

from typing import Final

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.mla import MultiLinear
from mlx_lm.models.switch_layers import SwitchLinear

from jang_runtime._blocks.matrices import BlockMatrices, BlockOperations, after

# Values that the transposed use of a stack expands at once.
_TILE: Final = 2**22


class BlockModule(nn.Module):
    """The companions of a module as frozen parameters, and what computes with them.

    Args:
        matrices: One matrix, or those of the experts or heads.
        operations: What computes with them.
        dtype: Type of the vectors of an embedding.
        bias: What is added to the outputs, if anything is.
    """

    def __init__(
        self,
        matrices: BlockMatrices,
        operations: BlockOperations,
        dtype: mx.Dtype,
        bias: mx.array | None,
    ) -> None:
        super().__init__()
        for part, array in matrices.companions().items():
            self[part] = array
        self.bias = bias
        self.matrices = matrices.matrices
        self.output_dims = matrices.out_features
        self.input_dims = matrices.in_features
        self.operations = operations
        self.dtype = dtype
        self.freeze()

    def _extra_repr(self) -> str:
        return f"matrices={self.matrices}, output={self.output_dims}, input={self.input_dims}"


class BlockLinear(BlockModule):
    """`nn.QuantizedLinear` over blocks."""

    def __call__(self, x: mx.array) -> mx.array:
        """`x` `[..., in]` to `[..., out]`."""
        y = self.operations.linear(x)
        return y if self.bias is None else y + self.bias


class BlockEmbedding(BlockModule):
    """`nn.QuantizedEmbedding` over blocks."""

    def __call__(self, x: mx.array) -> mx.array:
        """Rows of tokens `[...]`, `[..., in]`."""
        rows = self.operations.rows(mx.reshape(x, (-1,)), self.dtype)
        return mx.reshape(rows, (*x.shape, self.input_dims))

    def as_linear(self, x: mx.array) -> mx.array:
        """The tied head: `x` `[..., in]` to `[..., out]`."""
        return self.operations.linear(x)


class BlockSwitchLinear(BlockModule):
    """`QuantizedSwitchLinear` over blocks: a matrix for each expert."""

    @property
    def num_experts(self) -> int:
        """How many experts there are."""
        return self.matrices

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """`x` `[..., n, in]` times the experts `indices` `[...]`, leading sizes broadcast.

        `sorted_indices` promises what the kernels see for themselves: runs of the same expert.
        """
        *leading, count, _ = x.shape
        if count == 1 and leading == [*indices.shape[:-1], 1]:
            # Each row is for all experts of its token: not repeated, but told.
            y = self._gather(x, indices)
            shape = [*indices.shape, 1, self.output_dims]
        else:
            batch = mx.broadcast_shapes(leading, indices.shape)
            chosen = mx.broadcast_to(mx.expand_dims(indices, -1), [*batch, count])
            y = self._gather(mx.broadcast_to(x, [*batch, *x.shape[-2:]]), chosen)
            shape = [*batch, count, self.output_dims]
        y = mx.reshape(y, shape)
        return y if self.bias is None else y + mx.expand_dims(self.bias[indices], -2)

    def _gather(self, x: mx.array, indices: mx.array) -> mx.array:
        return self.operations.gather_linear(
            mx.reshape(x, (-1, self.input_dims)), mx.reshape(indices, (-1,))
        )


class BlockMultiLinear(BlockModule):
    """`QuantizedMultiLinear` over blocks: a matrix for each head of MLA."""

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:
        """`x` `[..., heads or 1, n, in]` to `[..., heads, n, out]`, or the way back."""
        *leading, heads, count, size = x.shape
        if heads != self.matrices:
            x = mx.broadcast_to(x, [*leading, self.matrices, count, size])
        if not transpose:
            return self._times(x)
        # Head by head, so that rows of one matrix lie together.
        by_head = mx.moveaxis(x, -3, 0)
        indices = mx.repeat(mx.arange(self.matrices, dtype=mx.uint32), by_head[0].size // size)
        y = self.operations.gather_linear(mx.reshape(by_head, (-1, size)), indices)
        return mx.moveaxis(mx.reshape(y, (*by_head.shape[:-1], self.output_dims)), 0, -3)

    def _times(self, x: mx.array) -> mx.array:
        """`x` `[..., heads, n, out]` times the matrices themselves, some heads at a time."""
        out, size = self.output_dims, self.input_dims
        step = max(1, _TILE // (out * size))
        products: list[mx.array] = []
        for first in range(0, self.matrices, step):
            last = min(first + step, self.matrices)
            rows = mx.arange(first * out, last * out, dtype=mx.uint32)
            if products:
                # One tile after the other, or all of them would be in memory.
                rows = after(rows, products[-1])
            values = mx.reshape(self.operations.rows(rows, x.dtype), (last - first, out, size))
            products.append(x[..., first:last, :, :] @ values)
        return mx.concatenate(products, axis=-3)


#: What takes the place of each class of quantizable module.
BLOCK_MODULES: Final[dict[type[nn.Module], type[BlockModule]]] = {
    nn.Linear: BlockLinear,
    nn.Embedding: BlockEmbedding,
    SwitchLinear: BlockSwitchLinear,
    MultiLinear: BlockMultiLinear,
}
