"""What a method makes of a module's weights."""

from dataclasses import dataclass

from jang_format import QuantizedTensor


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
