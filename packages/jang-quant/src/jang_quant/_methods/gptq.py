"""GPTQ: each column's rounding error is made up for by the columns that follow.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(2023), with the grid of each group searched (`_grid.fit_group`) on the weights as they are when the
group's turn comes, weighted by the inputs' second moments; without, it diverges at 2 bits. Rows are
independent of each other, so that the result does not depend on the number of threads.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from jang_format import InvalidTensorError
from jang_quant._methods._grid import (
    STORED_BITS,
    Floats,
    Scalar,
    add_sums,
    as_float32,
    fit_group,
    inverse,
    moves,
    nearest_code,
    pack_group,
)
from jang_quant._methods._result import Quantized, by_matrix

DAMPING: Final = 0.01
_MOST_DAMPING: Final = 1.0
# Rows that go through the columns together, so that a row of the factor is read once for all.
_ROWS: Final = 16
# Columns that errors are spread over at a time: their part of the factor stays in the cache.
_TILE: Final = 128
# Columns of a factorization at a time.
_BLOCK: Final = 512


def quantize(
    weight: NDArray[Any],
    bits: int,
    group_size: int,
    dtype: str,
    hessian: Callable[[int], Floats],
) -> Quantized:
    """Quantize values `[..., out, in]`, given what their inputs look like.

    Args:
        weight: float32, or bfloat16 as uint16.
        bits: 2, 3, 4, 5, 6 or 8.
        group_size: 32, 64 or 128; divides `in`.
        dtype: How scales and biases are stored: "F16", "BF16" or "F32".
        hessian: Second moments of the inputs `[in, in]`, times any positive number, of the matrix
            with this number in its stack; 0 for a matrix alone.

    Raises:
        InvalidTensorError: If values are beyond the range of `dtype`, or sizes do not fit.
    """

    def quantize_matrix(
        number: int,
        matrix: NDArray[Any],
        packed: NDArray[np.uint32],
        scales: Floats,
        biases: Floats,
    ) -> Floats:
        factor, importance = _definite_factor(hessian(number), matrix.shape[-1])
        found = np.empty((len(matrix), 2), dtype=np.float32)
        _quantize_rows(
            as_float32(matrix),
            factor,
            importance.reshape(-1, group_size),
            bits,
            moves(bits),
            STORED_BITS[dtype],
            packed.view(np.uint8),
            scales,
            biases,
            found,
        )
        return found

    return by_matrix(weight, bits, group_size, dtype, quantize_matrix)


def _definite_factor(hessian: Floats, inputs: int) -> tuple[Floats, Floats]:
    """See `_factor`; with more damping where sums in float32 have left a matrix indefinite."""
    damping = DAMPING
    while True:
        try:
            return _factor(hessian, inputs, damping)
        except np.linalg.LinAlgError:
            if damping > _MOST_DAMPING:
                raise InvalidTensorError("hessian: found no second moments of inputs") from None
            damping *= 10


def _factor(hessian: Floats, inputs: int, damping: float) -> tuple[Floats, Floats]:
    """The upper Cholesky factor of the damped inverse `[in, in]`, and the weight of each input."""
    if hessian.shape != (inputs, inputs):
        raise InvalidTensorError(f"hessian: found {hessian.shape}, expected {(inputs, inputs)}")
    damped = hessian.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    mean = diagonal.mean()
    # An input that is always 0: its weight does not matter, but the matrix has to be definite.
    diagonal += damping * mean if mean > 0 else 1.0
    importance = diagonal.astype(np.float32)
    # Turned around, the lower factor of H is the upper one of another product, H = R R^T; and
    # R^-1 is the upper factor of the inverse.
    turned = damped[::-1, ::-1]
    _cholesky(turned)
    _invert_lower(turned)
    return damped.astype(np.float32), importance / importance.mean()


def _cholesky(matrix: NDArray[np.float64]) -> None:
    """Replace a matrix by its lower factor, zeros above it.

    By blocks of columns, so that no second matrix of its size is needed.
    """
    for start in range(0, len(matrix), _BLOCK):
        part, rest = slice(start, start + _BLOCK), start + _BLOCK
        own = np.linalg.cholesky(matrix[part, part])
        matrix[part, part] = own
        matrix[rest:, part] = matrix[rest:, part] @ np.linalg.inv(own).T
        for column in range(rest, len(matrix), _BLOCK):
            later = slice(column, column + _BLOCK)
            matrix[column:, later] -= matrix[column:, part] @ matrix[later, part].T
        matrix[part, rest:] = 0


def _invert_lower(matrix: NDArray[np.float64]) -> None:
    """Replace a lower triangular matrix, zeros above it, by its inverse, by blocks of rows."""
    for start in range(0, len(matrix), _BLOCK):
        part = slice(start, start + _BLOCK)
        own = np.linalg.inv(matrix[part, part])
        matrix[part, :start] = -own @ (matrix[part, :start] @ matrix[:start, :start])
        matrix[part, part] = own


@njit(parallel=True, cache=True)
def _quantize_rows(
    weight: Floats,
    factor: Floats,
    importance: Floats,
    width: int,
    ends: Floats,
    significant_bits: int,
    packed: NDArray[np.uint8],
    scales: Floats,
    biases: Floats,
    sums: Floats,
) -> None:
    """Quantize all rows of `weight`; fills `packed`, `scales`, `biases` and `sums` (`_grid`)."""
    rows, columns = weight.shape
    groups, size = importance.shape
    largest = np.float32(2**width - 1)
    step = size // 8 * width
    for part in prange((rows + _ROWS - 1) // _ROWS):
        first, last = part * _ROWS, min((part + 1) * _ROWS, rows)
        left = weight[first:last].copy()
        errors = np.empty((_ROWS, size), dtype=np.float32)
        values = np.empty(size, dtype=np.float32)
        codes = np.empty(size, dtype=np.uint32)
        sums[first:last] = np.float32(0)
        for group in range(groups):
            start = group * size
            for row in range(first, last):
                values[:] = left[row - first, start : start + size]
                scale, bias, _ = fit_group(
                    values, importance[group], largest, ends, significant_bits
                )
                scales[row, group], biases[row, group] = scale, bias
                _quantize_group(
                    values, scale, bias, largest, factor, start, codes, errors[row - first]
                )
                pack_group(codes, width, packed[row, group * step : (group + 1) * step])
                add_sums(weight[row, start : start + size], codes, scale, bias, sums[row])
            for tile in range(start + size, columns, _TILE):
                stop = min(tile + _TILE, columns)
                for row in range(first, last):
                    _make_up(left[row - first, tile:stop], factor, errors[row - first], start, tile)


@njit(cache=True)
def _quantize_group(
    values: Floats,
    scale: Scalar,
    bias: Scalar,
    largest: Scalar,
    factor: Floats,
    start: int,
    codes: NDArray[np.uint32],
    errors: Floats,
) -> None:
    """Quantize one group of a row column by column; `errors` are per unit of the factor."""
    per_step = inverse(scale)
    for place in range(values.size):
        line = factor[start + place, start : start + values.size]
        code = nearest_code(values[place], per_step, bias, largest)
        codes[place] = np.uint32(np.int32(code))
        error = (values[place] - (code * scale + bias)) / line[place]
        errors[place] = error
        for later in range(place + 1, values.size):
            values[later] -= error * line[later]


@njit(cache=True, fastmath={"contract"})
def _make_up(later: Floats, factor: Floats, errors: Floats, start: int, tile: int) -> None:
    """Spread the errors of a group over some of the columns that follow, from `tile` on."""
    stop = tile + later.size
    # Four errors at a time, so that a column is read and written once for all of them. Slices, so
    # that no index can be negative, which would cost the compiler its vectors.
    for place in range(0, errors.size, 4):
        first, second = factor[start + place, tile:stop], factor[start + place + 1, tile:stop]
        third, fourth = factor[start + place + 2, tile:stop], factor[start + place + 3, tile:stop]
        one, two, three, four = (
            errors[place],
            errors[place + 1],
            errors[place + 2],
            errors[place + 3],
        )
        for column in range(later.size):
            later[column] -= (one * first[column] + two * second[column]) + (
                three * third[column] + four * fourth[column]
            )
