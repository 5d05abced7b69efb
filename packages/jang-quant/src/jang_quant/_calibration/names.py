"""Names and values in calibration files."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format import StoredTensor

FORMAT: Final = "jang calibration 2"
TOKENS: Final = "tokens"
MATRIX: Final = "second_moments"
DIAGONALS: Final = "second_moments_diagonals"
SHARES: Final = "input_shares"
GRADIENTS: Final = "gradients"
LOOKUPS: Final = "lookup_gradients"

_TYPES: Final = {"F32": np.float32, "I32": np.int32}


def matrix_name(key: str, number: int | None) -> str:
    """Name of a matrix of second moments; that of all inputs of a stack has no number."""
    return f"{key}.{MATRIX}" if number is None else f"{key}.{MATRIX}.{number}"


def read_values(tensor: StoredTensor) -> NDArray[Any]:
    """A tensor's values, read from the file and not kept mapped."""
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        count = int(np.prod(tensor.spec.shape))
        values = np.fromfile(stream, dtype=_TYPES[tensor.spec.dtype], count=count)
    return values.reshape(tensor.spec.shape)
