"""Searched grids: scale and bias of each group with the least squared error.

With calibration, an error counts as much as the second moment of the input that it is multiplied
with: so the error of the module's output is what is made small, as far as inputs do not depend on
each other.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format import InvalidTensorError
from jang_quant._methods._grid import Floats, fit, moves
from jang_quant._methods._result import Quantized

# An input that was never seen still counts a little.
_LEAST_WEIGHT: Final = 1e-4


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
    matrices = int(np.prod(weight.shape[:-2]))
    weights = _weights(second_moments, matrices, weight.shape[-1])
    return fit(weight, weights[:, None], bits, group_size, moves(bits), dtype)


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
