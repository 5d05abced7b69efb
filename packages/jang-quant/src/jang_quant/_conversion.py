"""What came of a conversion."""

from dataclasses import dataclass
from pathlib import Path

from jang_quant._plan import Plan


@dataclass(frozen=True)
class ConvertedModule:
    """One module as it was written.

    Attributes:
        path: Module path.
        role: Such as "attention".
        bits: Bits of a code; None where it is not quantized.
        group_size: Weights that share scale and bias; None where bits is.
        nbytes: Bytes of codes, scales and biases.
        relative_error: Sum of squared differences from the source over its sum of squares.
        seconds: Time that quantizing it took.
        note: What did not go as asked, such as "2 of 8 experts by mse"; "" where all did.
    """

    path: str
    role: str
    bits: int | None
    group_size: int | None
    nbytes: int
    relative_error: float
    seconds: float
    note: str


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        out: The directory written.
        plan: The plan it follows.
        weight_bytes: Size of the weight files.
        float_dtype: How scales, biases and unquantized tensors are stored.
        seconds: Time it took, in this run.
        modules: What became of each module, in the plan's order.
    """

    out: Path
    plan: Plan
    weight_bytes: int
    float_dtype: str
    seconds: float
    modules: tuple[ConvertedModule, ...]
