"""The grid of a group: scale and bias with the least weighted error, found by search.

Ranges inside a group's own are tried: both ends moved inwards alike, then each alone. For each,
codes are the nearest steps, and scale and bias the least-squares fit to them, in turn; the best of
all, as it will be stored, wins. After llama.cpp's `make_qkx2_quants`, which moves one end. Each
group is a problem of its own, so that the result does not depend on the number of threads.
"""

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from jang_format import decode_floats

Floats = NDArray[np.float32]
# A number of compiled code, where numpy's own types of scalars would stand in the way.
Scalar = Any

# Significant bits of scales and biases by how they are stored.
STORED_BITS: Final = {"F16": 11, "BF16": 8, "F32": 24}
FITS: Final = 2
# A scale below this has no inverse in float32, and nothing to tell apart.
_FLAT: Final = np.float32(2.0**-100)
# By how much of the range an end moves inwards. Wide codes leave little to be gained.
_MOVES: Final = {
    2: (0.0, 0.06, 0.12, 0.18, 0.24, 0.30, 0.36),
    3: (0.0, 0.04, 0.08, 0.12, 0.16, 0.20, 0.24),
    4: (0.0, 0.03, 0.06, 0.09, 0.12, 0.15),
    5: (0.0, 0.02, 0.04, 0.06, 0.08),
    6: (0.0, 0.015, 0.03, 0.045),
    8: (0.0, 0.01, 0.02),
}
# Sums may be taken in any order, which lets the compiler use vectors; values are finite.
_FAST: Final = {"reassoc", "contract", "nsz", "arcp", "nnan"}


def moves(bits: int) -> Floats:
    """By how much of the range the search moves an end inwards, float32 `[n]`."""
    return np.array(_MOVES[bits], dtype=np.float32)


@njit(cache=True)
def round_stored(value: Scalar, significant_bits: int) -> Scalar:
    """The nearest value with so many significant bits; F16 has fewer below 2**-14."""
    if significant_bits == 24:
        return value
    if significant_bits == 11 and abs(value) < np.float32(2.0**-14):
        # Next to 0.75 the steps of float32 are 2**-24, as those of F16 are here.
        return np.float32(np.float32(value + np.float32(0.75)) - np.float32(0.75))
    if abs(value) < np.float32(2.0**-100):
        return np.float32(0)
    # Veltkamp's splitting.
    factor = np.float32(2.0 ** (24 - significant_bits) + 1.0)
    product = np.float32(value * factor)
    return np.float32(product - np.float32(product - value))


@njit(cache=True)
def inverse(scale: Scalar) -> Scalar:
    """1 / scale; 0 for 0 and what is next to it, which makes all codes 0."""
    return np.float32(0) if abs(scale) < _FLAT else np.float32(1) / scale


@njit(cache=True)
def nearest_code(value: Scalar, per_step: Scalar, bias: Scalar, largest: Scalar) -> Scalar:
    """The code whose value is nearest, as float32; `per_step` is 1 / scale."""
    return min(max(np.rint((value - bias) * per_step), np.float32(0)), largest)


@njit(cache=True, fastmath=_FAST)
def _moments(
    values: Floats, weights: Floats, scale: Scalar, bias: Scalar, largest: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Weighted sums of the nearest codes, of their squares, and of code times value."""
    per_step = inverse(scale)
    codes, squares, products = np.float32(0), np.float32(0), np.float32(0)
    for place in range(values.size):
        code = nearest_code(values[place], per_step, bias, largest)
        weighted = weights[place] * code
        codes += weighted
        squares += weighted * code
        products += weighted * values[place]
    return codes, squares, products


@njit(cache=True, fastmath=_FAST)
def weighted_error(
    values: Floats, weights: Floats, scale: Scalar, bias: Scalar, largest: Scalar
) -> Scalar:
    """Weighted squared error of values on a grid."""
    per_step = inverse(scale)
    error = np.float32(0)
    for place in range(values.size):
        off = nearest_code(values[place], per_step, bias, largest) * scale + bias - values[place]
        error += weights[place] * off * off
    return error


@njit(cache=True)
def _fit_range(
    values: Floats,
    weights: Floats,
    weight_sum: Scalar,
    value_sum: Scalar,
    low: Scalar,
    high: Scalar,
    largest: Scalar,
    significant_bits: int,
) -> tuple[Scalar, Scalar, Scalar]:
    """Scale, bias and error of the grid that starts as this range."""
    scale, bias = (high - low) / largest, low
    for _ in range(FITS):
        codes, squares, products = _moments(values, weights, scale, bias, largest)
        spread = weight_sum * squares - codes * codes
        # All codes alike: nothing to fit.
        if spread <= np.float32(1e-6) * weight_sum * squares:
            break
        scale = np.float32((weight_sum * products - codes * value_sum) / spread)
        bias = np.float32((value_sum - scale * codes) / weight_sum)
    scale = round_stored(np.float32(scale), significant_bits)
    bias = round_stored(np.float32(bias), significant_bits)
    return scale, bias, weighted_error(values, weights, scale, bias, largest)


@njit(cache=True, fastmath=_FAST)
def _start(values: Floats, weights: Floats) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Least and greatest value, and the sums of weights and of weighted values."""
    low, high = values[0], values[0]
    weight_sum, value_sum = np.float32(0), np.float32(0)
    for place in range(values.size):
        low, high = min(low, values[place]), max(high, values[place])
        weight_sum += weights[place]
        value_sum += weights[place] * values[place]
    return low, high, weight_sum, value_sum


@njit(cache=True)
def fit_group(
    values: Floats, weights: Floats, largest: Scalar, ends: Floats, significant_bits: int
) -> tuple[Scalar, Scalar, Scalar]:
    """Scale, bias and weighted squared error of the best grid of one group.

    Args:
        values: float32 `[group_size]`.
        weights: How much an error of each value counts, float32 `[group_size]`, not all 0.
        largest: Largest code, as float32.
        ends: See `moves`.
        significant_bits: See `STORED_BITS`.
    """
    low, high, weight_sum, value_sum = _start(values, weights)
    span = high - low
    best = _fit_range(values, weights, weight_sum, value_sum, low, high, largest, significant_bits)
    from_low, from_high = np.float32(0), np.float32(0)
    # Both ends alike, then the low one alone, then the high one.
    for turn in range(3):
        lowest, highest = from_low, from_high
        for end in ends:
            tried_low = lowest if turn == 2 else end
            tried_high = highest if turn == 1 else end
            start, stop = low + span * tried_low, high - span * tried_high
            found = _fit_range(
                values, weights, weight_sum, value_sum, start, stop, largest, significant_bits
            )
            if found[2] < best[2]:
                best, from_low, from_high = found, tried_low, tried_high
    return best


def as_float32(weight: NDArray[Any]) -> Floats:
    """Values as float32, from float32 or from bfloat16 as uint16."""
    return decode_floats(np.ascontiguousarray(weight), "BF16" if weight.itemsize == 2 else "F32")


@njit(cache=True)
def pack_group(codes: NDArray[np.uint32], width: int, packed: NDArray[np.uint8]) -> None:
    """Pack the codes of a group into `size // 8 * width` bytes, as jang_format.pack_codes does."""
    for first in range(0, codes.size, 8):
        # Eight codes are a whole number of bytes, and at most eight of them.
        together = np.uint64(0)
        for place in range(8):
            together |= np.uint64(codes[first + place]) << np.uint64(place * width)
        start = first // 8 * width
        for place in range(width):
            packed[start + place] = np.uint8((together >> np.uint64(8 * place)) & np.uint64(0xFF))


@njit(cache=True, fastmath=_FAST)
def add_sums(
    values: Floats, codes: NDArray[np.uint32], scale: Scalar, bias: Scalar, sums: Floats
) -> None:
    """Add a group's squared errors to the first of two sums, its squares to the second."""
    error, squares = np.float32(0), np.float32(0)
    for place in range(values.size):
        off = np.float32(codes[place]) * scale + bias - values[place]
        error += off * off
        squares += values[place] * values[place]
    sums[0] += error
    sums[1] += squares
