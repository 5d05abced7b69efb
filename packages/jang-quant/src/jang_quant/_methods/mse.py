"""Searched grids: scale and bias of each group with the least squared error.

With calibration, an error counts as much as the second moment of the input that it is multiplied
with: so the error of the module's output is what is made small, as far as inputs do not depend on
each other.
"""

from typing import Final

import numpy as np

from jang_format import InvalidTensorError, QuantizedTensor, assemble
from jang_quant._methods._grid import STORED_BITS, Floats, fit_groups, moves

# An input that was never seen still counts a little.
_LEAST_WEIGHT: Final = 1e-4


def quantize(
    weight: Floats, bits: int, group_size: int, dtype: str, second_moments: Floats | None = None
) -> QuantizedTensor:
    """Quantize finite values `[..., out, in]`.

    Args:
        weight: The values.
        bits: 2, 3, 4, 5, 6 or 8.
        group_size: 32, 64 or 128; divides `in`.
        dtype: How scales and biases are stored: "F16", "BF16" or "F32".
        second_moments: Mean square of each input, `[in]`; of each expert's inputs, `[experts, in]`,
            for a stack; None counts all errors alike.

    Raises:
        InvalidTensorError: If values are beyond the range of `dtype`, or sizes do not fit.
    """
    columns = weight.shape[-1]
    stack = weight.reshape(-1, *weight.shape[-2:])
    weights = _weights(second_moments, len(stack), columns).reshape(len(stack), -1, group_size)
    by_row = (*stack.shape[:2], columns // group_size)
    codes = np.empty((*by_row, group_size), dtype=np.uint8)
    scales = np.empty(by_row, dtype=np.float32)
    biases = np.empty(by_row, dtype=np.float32)
    for expert, values in enumerate(stack):
        fit_groups(
            np.ascontiguousarray(values, dtype=np.float32).reshape(-1, group_size),
            weights[expert],
            np.float32(2**bits - 1),
            moves(bits),
            STORED_BITS[dtype],
            codes[expert].reshape(-1, group_size),
            scales[expert].reshape(-1),
            biases[expert].reshape(-1),
        )
    grouped = (*weight.shape[:-1], columns // group_size)
    return assemble(
        codes.reshape(weight.shape), scales.reshape(grouped), biases.reshape(grouped), bits, dtype
    )


def _weights(second_moments: Floats | None, experts: int, columns: int) -> Floats:
    """How much each input counts, `[experts, in]`, 1 on average."""
    if second_moments is None:
        return np.ones((experts, columns), dtype=np.float32)
    if second_moments.shape not in ((columns,), (experts, columns)):
        raise InvalidTensorError(
            f"second moments: found {second_moments.shape}, expected {(experts, columns)}"
        )
    given = np.broadcast_to(second_moments, (experts, columns)).astype(np.float32)
    means = given.mean(axis=1, keepdims=True)
    normal = np.divide(given, means, out=np.ones_like(given), where=means > 0)
    return np.maximum(normal, np.float32(_LEAST_WEIGHT))
