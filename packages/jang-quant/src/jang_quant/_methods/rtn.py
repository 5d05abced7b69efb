"""Round to nearest: each weight goes to the nearest step of its group's grid.

The grid starts as an even division of the group's range and is then fitted to the weights: scale
and bias by least squares on the codes, and codes anew, twice. No data is needed. Scale and bias
are rounded to the type in which they are stored before the last codes are chosen, so the codes
make up for that rounding.

What takes time here is going through memory, so many groups are turned to lie side by side: then
every loop runs over groups, which the compiler makes vectors of, and all is done in one pass.
"""

from typing import Any, Final

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from jang_format import assemble_packed
from jang_quant._methods._grid import FITS, STORED_BITS, Floats, Scalar, inverse, round_stored
from jang_quant._methods._result import Quantized

# Groups that lie side by side, and how many times so many one thread takes at a time.
_LANES: Final = 64
_TURNS: Final = 32


def quantize(weight: NDArray[Any], bits: int, group_size: int, dtype: str) -> Quantized:
    """Quantize values `[..., out, in]`, computing in float32.

    Args:
        weight: float32, or bfloat16 as uint16.
        bits: 2, 3, 4, 5, 6 or 8.
        group_size: 32, 64 or 128; divides `in`.
        dtype: How scales and biases are stored: "F16", "BF16" or "F32".

    Raises:
        InvalidTensorError: If values are beyond the range of `dtype`, or sizes do not fit.
    """
    *leading, columns = weight.shape
    groups = weight.size // group_size
    packed = np.empty((groups, group_size // 32 * bits), dtype=np.uint32)
    scales, biases = np.empty(groups, dtype=np.float32), np.empty(groups, dtype=np.float32)
    sums = np.empty((groups, 2), dtype=np.float32)
    _quantize_groups(
        np.ascontiguousarray(weight).reshape(groups, group_size),
        bits,
        STORED_BITS[dtype],
        packed,
        scales,
        biases,
        sums,
    )
    tensor = assemble_packed(
        packed.reshape(*leading, columns // 32 * bits),
        scales.reshape(*leading, -1),
        biases.reshape(*leading, -1),
        bits,
        dtype,
    )
    error, squares = sums.sum(axis=0, dtype=np.float64)
    return Quantized(tensor, squared_error=float(error), squares=float(squares))


@njit(parallel=True, cache=True)
def _quantize_groups(
    raw: NDArray[Any],
    width: int,
    significant_bits: int,
    packed: NDArray[np.uint32],
    scales: Floats,
    biases: Floats,
    sums: Floats,
) -> None:
    """Fit, round and pack every group of `raw` `[n, group_size]`; fills the other arrays.

    `packed` is `[n, group_size // 32 * width]`; `sums` `[n, 2]` are of squared errors and squares.
    """
    count, size = raw.shape
    largest = np.float32(2**width - 1)
    step = _LANES * _TURNS
    for part in prange((count + step - 1) // step):
        turned = np.empty((size, _LANES), dtype=np.uint32)
        values = turned.view(np.float32)
        codes = np.empty((size, _LANES), dtype=np.uint32)
        words = np.empty((packed.shape[1], _LANES), dtype=np.uint32)
        lanes = np.empty((9, _LANES), dtype=np.float32)
        scale, bias, per_step, value_sum = lanes[0], lanes[1], lanes[2], lanes[3]
        for first in range(part * step, min((part + 1) * step, count), _LANES):
            _turn(raw, first, turned, values)
            _start(values, largest, scale, bias, value_sum, lanes[5])
            for _ in range(FITS):
                _fit(values, largest, scale, bias, per_step, value_sum, lanes[6:])
            for lane in range(_LANES):
                scale[lane] = round_stored(scale[lane], significant_bits)
                bias[lane] = round_stored(bias[lane], significant_bits)
            _round(values, largest, scale, bias, per_step, codes, lanes[4])
            _pack(codes, width, words)
            for lane in range(min(_LANES, count - first)):
                group = first + lane
                scales[group], biases[group] = scale[lane], bias[lane]
                sums[group, 0], sums[group, 1] = lanes[4, lane], lanes[5, lane]
                for word in range(words.shape[0]):
                    packed[group, word] = words[word, lane]


@njit(cache=True)
def _turn(raw: NDArray[Any], first: int, turned: NDArray[np.uint32], values: Floats) -> None:
    """Lay groups from `first` on side by side, the last one again and again after the end."""
    for lane in range(_LANES):
        group = raw[min(first + lane, raw.shape[0] - 1)]
        if raw.itemsize == 2:
            for place in range(group.size):
                turned[place, lane] = np.uint32(group[place]) << np.uint32(16)
        else:
            for place in range(group.size):
                values[place, lane] = group[place]


@njit(cache=True)
def _start(
    values: Floats,
    largest: Scalar,
    scale: Floats,
    bias: Floats,
    value_sum: Floats,
    squares: Floats,
) -> None:
    """Grids of the groups' ranges, and sums of values and squares, which NaN gets into."""
    squares[:] = np.float32(0)
    scale[:] = values[0]
    bias[:] = values[0]
    value_sum[:] = np.float32(0)
    for place in range(values.shape[0]):
        line = values[place]
        for lane in range(_LANES):
            value = line[lane]
            scale[lane] = value if value > scale[lane] else scale[lane]
            bias[lane] = value if value < bias[lane] else bias[lane]
            value_sum[lane] += value
            squares[lane] += value * value
    for lane in range(_LANES):
        scale[lane] = (scale[lane] - bias[lane]) / largest


@njit(cache=True)
def _invert(scale: Floats, per_step: Floats) -> None:
    """See `_grid.inverse`."""
    for lane in range(_LANES):
        per_step[lane] = inverse(scale[lane])


@njit(cache=True, fastmath={"contract", "nnan"})
def _fit(
    values: Floats,
    largest: Scalar,
    scale: Floats,
    bias: Floats,
    per_step: Floats,
    value_sum: Floats,
    sums: Floats,
) -> None:
    """Scale and bias with the least squared error for the nearest codes, in place."""
    size = np.float32(values.shape[0])
    _invert(scale, per_step)
    codes, squares, products = sums[0], sums[1], sums[2]
    sums[:3] = np.float32(0)
    for place in range(values.shape[0]):
        line = values[place]
        for lane in range(_LANES):
            code = np.rint((line[lane] - bias[lane]) * per_step[lane])
            code = min(max(code, np.float32(0)), largest)
            codes[lane] += code
            squares[lane] += code * code
            products[lane] += code * line[lane]
    for lane in range(_LANES):
        spread = size * squares[lane] - codes[lane] * codes[lane]
        # All codes alike: nothing to fit.
        if spread > np.float32(1e-6) * size * squares[lane]:
            fitted = (size * products[lane] - codes[lane] * value_sum[lane]) / spread
            scale[lane] = fitted
            bias[lane] = (value_sum[lane] - fitted * codes[lane]) / size


@njit(cache=True, fastmath={"contract", "nnan"})
def _round(
    values: Floats,
    largest: Scalar,
    scale: Floats,
    bias: Floats,
    per_step: Floats,
    codes: NDArray[np.uint32],
    errors: Floats,
) -> None:
    """The nearest codes, and the sums of squared errors."""
    _invert(scale, per_step)
    errors[:] = np.float32(0)
    for place in range(values.shape[0]):
        line, out = values[place], codes[place]
        for lane in range(_LANES):
            code = np.rint((line[lane] - bias[lane]) * per_step[lane])
            code = min(max(code, np.float32(0)), largest)
            out[lane] = np.uint32(np.int32(code))
            off = code * scale[lane] + bias[lane] - line[lane]
            errors[lane] += off * off


@njit(cache=True)
def _pack(codes: NDArray[np.uint32], width: int, words: NDArray[np.uint32]) -> None:
    """Words of codes, low bit first, as jang_format.pack_codes does it."""
    words[:] = np.uint32(0)
    for place in range(codes.shape[0]):
        position = (place & 31) * width
        word, shift = (place >> 5) * width + (position >> 5), np.uint32(position & 31)
        line, out = codes[place], words[word]
        for lane in range(_LANES):
            out[lane] |= line[lane] << shift
        if shift + width > 32:
            out, back = words[word + 1], np.uint32(32) - shift
            for lane in range(_LANES):
                out[lane] |= line[lane] >> back
