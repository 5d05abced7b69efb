"""Matrices in block layout in memory, and what can be done with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_format import BLOCK_SIZE
from jang_runtime._errors import ModelError

#: Tensors of a module, by the last part of their names (docs/FORMAT.md, "Block layout").
COMPANIONS: Final = ("qweight", "scales", "zeros", "bit_map", "block_offsets")


@dataclass(frozen=True)
class BlockMatrices:
    """One matrix, or a stack of them, in block layout; nothing is expanded.

    Attributes:
        qweight: Codes of block after block; uint8 `[bytes]`.
        scales: float16 `[blocks]`.
        zeros: float16 `[blocks]`; a value is `(code - zero) * scale`.
        bit_map: Width of each block; uint8 `[blocks]`.
        block_offsets: First byte of each block, modulo 2**32; uint32 `[blocks]`.
        matrix_offsets: First byte of each matrix; uint64 `[matrices]`. Inside a matrix a block lies
            `(block_offset - matrix_offset) mod 2**32` bytes after it.
        matrices: How many there are.
        out_features: Rows of each.
        in_features: Columns of each; a row may end inside its last block.
    """

    qweight: mx.array
    scales: mx.array
    zeros: mx.array
    bit_map: mx.array
    block_offsets: mx.array
    matrix_offsets: mx.array
    matrices: int
    out_features: int
    in_features: int

    @property
    def blocks_per_row(self) -> int:
        """Blocks of a row, the one that it ends in included."""
        return -(-self.in_features // BLOCK_SIZE)

    def companions(self) -> dict[str, mx.array]:
        """The tensors of the file, by the last part of their names."""
        return {part: getattr(self, part) for part in COMPANIONS}


class BlockOperations(Protocol):
    """What a backend does with block matrices, results in the type of `x` or in the one asked for.

    Sums are taken in float32 at least.
    """

    def linear(self, x: mx.array) -> mx.array:
        """`x` `[..., in]` times the transpose of the only matrix, `[..., out]`."""
        ...

    def gather_linear(self, x: mx.array, indices: mx.array) -> mx.array:
        """Rows times the transposes of chosen matrices.

        Args:
            x: `[rows, in]`; each row is for the same number of consecutive indices.
            indices: Matrix of each result; uint32 `[results]`, a multiple of the rows.

        Returns:
            `[results, out]`.
        """
        ...

    def rows(self, rows: mx.array, dtype: mx.Dtype) -> mx.array:
        """Values `[rows, in]` of the rows with these numbers, counted over all matrices."""
        ...


def after(array: mx.array, *earlier: mx.array) -> mx.array:
    """The same array, computed after others: what is computed tile by tile frees memory."""
    return cast(Any, mx).depends([array], list(earlier))[0]  # its result is open in mlx's stubs


def block_matrices(
    arrays: Mapping[str, mx.array], widths: NDArray[np.uint8], shape: tuple[int, ...]
) -> BlockMatrices:
    """The matrices of a module.

    Args:
        arrays: Its companions, flat, by the last part of their names.
        widths: The same widths as in `bit_map`, at hand.
        shape: Shape of the values, `[out, in]` or `[matrices, out, in]`.

    Raises:
        ModelError: If a matrix has 4 GiB or more, within which offsets would wrap around.
    """
    matrices = shape[0] if len(shape) == 3 else 1
    nbytes = widths.reshape(matrices, -1).sum(axis=1, dtype=np.uint64) * (BLOCK_SIZE // 8)
    if int(nbytes.max()) >= 2**32:
        raise ModelError(f"qweight: found a matrix of {nbytes.max()} bytes, expected below 2**32")
    starts = np.zeros(matrices, dtype=np.uint64)
    np.cumsum(nbytes[:-1], out=starts[1:])
    return BlockMatrices(
        **{part: arrays[part] for part in COMPANIONS},
        matrix_offsets=mx.array(starts),
        matrices=matrices,
        out_features=shape[-2],
        in_features=shape[-1],
    )
