"""Round to nearest: each weight goes to the nearest step of its group's grid.

The grid starts as an even division of the group's range and is then fitted to the weights: scale
and bias by least squares on the codes, and codes anew, twice. No data is needed. Scale and bias
are rounded to the type in which they are stored before the last codes are chosen, so the codes
make up for that rounding.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_quant._methods._grid import Floats, fit
from jang_quant._methods._result import Quantized

# A group's whole range, and no other.
_NO_MOVES: Final[Floats] = np.zeros(0, dtype=np.float32)


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
    alike = np.ones((1, 1, weight.shape[-1]), dtype=np.float32)
    return fit(weight, alike, bits, group_size, _NO_MOVES, dtype)
