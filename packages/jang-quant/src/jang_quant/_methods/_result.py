"""What a method makes of a module's weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jang_format import QuantizedTensor, assemble_packed

Floats = NDArray[np.float32]
# Quantizes the matrix with this number, fills packed words, scales and biases, each by row, and
# returns sums of squared errors and of squares, `[n, 2]`.
QuantizeMatrix = Callable[[int, NDArray[Any], NDArray[np.uint32], Floats, Floats], Floats]


@dataclass(frozen=True)
class Quantized:
    """A quantized module.

    Attributes:
        tensor: Codes, scales and biases.
        squared_error: Sum of the squared differences from the values.
        squares: Sum of the squared values.
        note: What did not go as asked; "" where all did.
    """

    tensor: QuantizedTensor
    squared_error: float
    squares: float
    note: str = ""


def by_matrix(
    weight: NDArray[Any], bits: int, group_size: int, dtype: str, quantize: QuantizeMatrix
) -> Quantized:
    """Quantize values `[..., out, in]` one matrix after the other.

    Raises:
        InvalidTensorError: If scales are beyond the range of `dtype`, or sizes do not fit.
    """
    *leading, columns = weight.shape
    stack = weight.reshape(-1, weight.shape[-2], columns)
    packed = np.empty((*stack.shape[:2], columns // 32 * bits), dtype=np.uint32)
    scales = np.empty((*stack.shape[:2], columns // group_size), dtype=np.float32)
    biases = np.empty_like(scales)
    sums = np.zeros(2, dtype=np.float64)
    for number, matrix in enumerate(stack):
        found = quantize(number, matrix, packed[number], scales[number], biases[number])
        sums += found.sum(axis=0, dtype=np.float64)
    tensor = assemble_packed(
        packed.reshape(*leading, -1),
        scales.reshape(*leading, -1),
        biases.reshape(*leading, -1),
        bits,
        dtype,
    )
    return Quantized(tensor, squared_error=float(sums[0]), squares=float(sums[1]))
