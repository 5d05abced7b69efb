"""Searched grids: scale and bias of each group with the least squared error.

With calibration, an error counts as much as the second moment of the input that it is multiplied
with: so the error of the module's output is what is made small, as far as inputs do not depend on
each other.
"""

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
    fit_group,
    inverse,
    moves,
    nearest_code,
    pack_group,
)
from jang_quant._methods._result import Quantized, by_matrix

# An input that was never seen still counts a little.
_LEAST_WEIGHT: Final = 1e-4
# Groups that one thread takes at a time.
_GROUPS: Final = 512


def quantize(
    weight: NDArray[Any],
    bits: int,
    group_size: int,
    dtype: str,
    second_moments: Floats | None = None,
) -> Quantized:
    """Quantize values `[..., out, in]`.

    Args:
        weight: float32, or bfloat16 as uint16.
        bits: 2, 3, 4, 5, 6 or 8.
        group_size: 32, 64 or 128; divides `in`.
        dtype: How scales and biases are stored: "F16", "BF16" or "F32".
        second_moments: Mean square of each input, `[1, in]`; of each matrix's own, `[stack, in]`,
            for a stack; None counts all errors alike.

    Raises:
        InvalidTensorError: If values are beyond the range of `dtype`, or sizes do not fit.
    """
    matrices, columns = int(np.prod(weight.shape[:-2])), weight.shape[-1]
    weights = _weights(second_moments, matrices, columns)

    def quantize_matrix(
        number: int,
        matrix: NDArray[Any],
        packed: NDArray[np.uint32],
        scales: Floats,
        biases: Floats,
    ) -> Floats:
        found = np.empty((scales.size, 2), dtype=np.float32)
        _quantize_groups(
            np.ascontiguousarray(matrix).reshape(-1, group_size),
            weights[number % len(weights)].reshape(-1, group_size),
            bits,
            moves(bits),
            STORED_BITS[dtype],
            packed.view(np.uint8).reshape(len(found), -1),
            scales.reshape(-1),
            biases.reshape(-1),
            found,
        )
        return found

    return by_matrix(weight, bits, group_size, dtype, quantize_matrix)


def _weights(second_moments: Floats | None, matrices: int, columns: int) -> Floats:
    """How much each input counts, `[1 or matrices, in]`, 1 on average."""
    if second_moments is None:
        return np.ones((1, columns), dtype=np.float32)
    if second_moments.shape not in ((1, columns), (matrices, columns)):
        raise InvalidTensorError(
            f"second moments: found {second_moments.shape}, expected {(matrices, columns)}"
        )
    means = second_moments.mean(axis=1, keepdims=True)
    normal = np.divide(second_moments, means, out=np.ones_like(second_moments), where=means > 0)
    return np.maximum(normal, np.float32(_LEAST_WEIGHT))


@njit(cache=True)
def _fill(raw: NDArray[Any], bits: NDArray[np.uint32], values: Floats) -> None:
    """Values of a group from bfloat16 as uint16, or from float32; `bits` are those of `values`."""
    if raw.itemsize == 2:
        for place in range(raw.size):
            bits[place] = np.uint32(raw[place]) << np.uint32(16)
    else:
        for place in range(raw.size):
            values[place] = raw[place]


@njit(parallel=True, cache=True)
def _quantize_groups(
    raw: NDArray[Any],
    weights: Floats,
    width: int,
    ends: Floats,
    significant_bits: int,
    packed: NDArray[np.uint8],
    scales: Floats,
    biases: Floats,
    sums: Floats,
) -> None:
    """Fit, round and pack every group; fills `packed`, `scales`, `biases` and `sums`.

    Args:
        raw: float32, or bfloat16 as uint16, `[n, group_size]`.
        weights: float32 `[m, group_size]`; group `i` takes row `i % m`.
        width: Bits of a code.
        ends: See `moves`; without any, each group's own range is what the grid is fitted from.
        significant_bits: See `STORED_BITS`.
        packed: uint8 `[n, group_size // 8 * width]`.
        scales: float32 `[n]`.
        biases: float32 `[n]`.
        sums: Of squared errors and of squares, float32 `[n, 2]`.
    """
    count, size = raw.shape
    largest = np.float32(2**width - 1)
    for part in prange((count + _GROUPS - 1) // _GROUPS):
        bits = np.empty(size, dtype=np.uint32)
        values = bits.view(np.float32)
        codes = np.empty(size, dtype=np.uint32)
        for group in range(part * _GROUPS, min((part + 1) * _GROUPS, count)):
            _fill(raw[group], bits, values)
            row = weights[group % weights.shape[0]]
            scale, bias, _ = fit_group(values, row, largest, ends, significant_bits)
            scales[group], biases[group] = scale, bias
            _round(values, scale, bias, largest, codes)
            sums[group] = np.float32(0)
            add_sums(values, codes, scale, bias, sums[group])
            pack_group(codes, width, packed[group])


@njit(cache=True)
def _round(
    values: Floats, scale: Scalar, bias: Scalar, largest: Scalar, codes: NDArray[np.uint32]
) -> None:
    """The codes of a group."""
    per_step = inverse(scale)
    for place in range(values.size):
        codes[place] = np.uint32(np.int32(nearest_code(values[place], per_step, bias, largest)))
