"""GPTQ: each column's rounding error is made up for by the columns that follow.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(2023), with the grid of each group searched (`_grid.fit_group`) on the weights as they are when the
group's turn comes, weighted by the inputs' second moments; without, it diverges at 2 bits. Rows are
independent of each other, so that the result does not depend on the number of threads.
"""

from typing import Any, Final

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from jang_format import InvalidTensorError, QuantizedTensor, assemble
from jang_quant._methods._grid import (
    STORED_BITS,
    Floats,
    Scalar,
    fit_group,
    inverse,
    moves,
    nearest_code,
)

DAMPING: Final = 0.01
# Rows that go through the columns together, so that a row of the factor is read once for all.
_ROWS: Final = 16
# Columns that errors are spread over at a time: their part of the factor stays in the cache.
_TILE: Final = 128
_SMALL: Final = 128


def quantize(
    weight: Floats, bits: int, group_size: int, dtype: str, hessian: NDArray[np.float64]
) -> QuantizedTensor:
    """Quantize finite values `[out, in]`, given what their inputs look like.

    Args:
        weight: The values.
        bits: 2, 3, 4, 5, 6 or 8.
        group_size: 32, 64 or 128; divides `in`.
        dtype: How scales and biases are stored: "F16", "BF16" or "F32".
        hessian: Second moments of the inputs `[in, in]`, times any positive number.

    Raises:
        InvalidTensorError: If values are beyond the range of `dtype`, or sizes do not fit.
    """
    rows, columns = weight.shape
    if hessian.shape != (columns, columns):
        raise InvalidTensorError(f"hessian: found {hessian.shape}, expected {(columns, columns)}")
    factor, importance = _factor(hessian)
    codes = np.empty(weight.shape, dtype=np.uint8)
    scales = np.empty((rows, columns // group_size), dtype=np.float32)
    biases = np.empty_like(scales)
    _quantize_rows(
        np.array(weight, dtype=np.float32, order="C"),
        factor,
        importance,
        np.float32(2**bits - 1),
        moves(bits),
        STORED_BITS[dtype],
        group_size,
        codes,
        scales,
        biases,
    )
    return assemble(codes, scales, biases, bits, dtype)


def _factor(hessian: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """The upper Cholesky factor of the damped inverse `[in, in]`, and the weight of each input."""
    damped = np.array(hessian, dtype=np.float64)
    diagonal = np.einsum("ii->i", damped)
    mean = diagonal.mean()
    # An input that is always 0: its weight does not matter, but the matrix has to be definite.
    diagonal += DAMPING * mean if mean > 0 else 1.0
    importance = np.array(diagonal, dtype=np.float32)
    # Turned around, the lower factor of H is the upper one of another product, H = R R^T; and
    # R^-1 is the upper factor of the inverse.
    turned = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    factor = _invert_upper(np.ascontiguousarray(turned))
    return factor.astype(np.float32), importance / importance.mean()


def _invert_upper(matrix: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The inverse of an upper triangular matrix, by halves."""
    size = len(matrix)
    if size <= _SMALL:
        return np.triu(np.linalg.inv(matrix)).astype(np.float64)
    half = size // 2
    inverted = np.zeros(matrix.shape, dtype=np.float64)
    inverted[:half, :half] = _invert_upper(matrix[:half, :half])
    inverted[half:, half:] = _invert_upper(matrix[half:, half:])
    inverted[:half, half:] = -inverted[:half, :half] @ matrix[:half, half:] @ inverted[half:, half:]
    return inverted


@njit(parallel=True, cache=True)
def _quantize_rows(
    weight: Floats,
    factor: Floats,
    importance: Floats,
    largest: Scalar,
    ends: Floats,
    significant_bits: int,
    group_size: int,
    codes: NDArray[np.uint8],
    scales: Floats,
    biases: Floats,
) -> None:
    """Quantize all rows; `weight` is used up, `codes`, `scales` and `biases` are filled."""
    rows, columns = weight.shape
    # By group, so that what the search reads is contiguous.
    by_group = importance.reshape(-1, group_size)
    for part in prange((rows + _ROWS - 1) // _ROWS):
        first, last = part * _ROWS, min((part + 1) * _ROWS, rows)
        errors = np.empty((_ROWS, group_size), dtype=np.float32)
        values = np.empty(group_size, dtype=np.float32)
        for group in range(columns // group_size):
            start = group * group_size
            for row in range(first, last):
                values[:] = weight[row, start : start + group_size]
                scale, bias, _ = fit_group(values, by_group[group], largest, ends, significant_bits)
                scales[row, group], biases[row, group] = scale, bias
                _quantize_group(
                    values, scale, bias, largest, factor, start, codes[row], errors[row - first]
                )
            for tile in range(start + group_size, columns, _TILE):
                stop = min(tile + _TILE, columns)
                for row in range(first, last):
                    _make_up(weight[row, tile:stop], factor, errors[row - first], start, tile)


@njit(cache=True)
def _quantize_group(
    values: Floats,
    scale: Scalar,
    bias: Scalar,
    largest: Scalar,
    factor: Floats,
    start: int,
    codes: NDArray[np.uint8],
    errors: Floats,
) -> None:
    """Quantize one group of a row column by column; `errors` are per unit of the factor."""
    per_step = inverse(scale)
    for place in range(values.size):
        line = factor[start + place, start : start + values.size]
        code = nearest_code(values[place], per_step, bias, largest)
        codes[start + place] = np.uint8(code)
        error = (values[place] - (code * scale + bias)) / line[place]
        errors[place] = error
        for later in range(place + 1, values.size):
            values[later] -= error * line[later]


@njit(cache=True, fastmath={"contract"})
def _make_up(later: Floats, factor: Floats, errors: Floats, start: int, tile: int) -> None:
    """Spread the errors of a group over some of the columns that follow, from `tile` on."""
    for place in range(errors.size):
        # A slice, so that no index can be negative, which would cost the compiler its vectors.
        line = factor[start + place, tile : tile + later.size]
        error = errors[place]
        for column in range(later.size):
            later[column] -= error * line[column]
