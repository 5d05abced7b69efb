"""Tensor dtypes by their safetensors names, and the float types among them.

numpy has no bfloat16; such tensors are held as their raw 16 bits, and these functions convert.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format._errors import InvalidTensorError

# Dtypes of the files, with the numpy dtype that holds their bytes, in the order in which the
# safetensors library ranks them: narrow ones first, so that writing backwards aligns every tensor.
STORAGE: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E4M3": np.dtype("u1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}

FLOATS: Final = ("F32", "F16", "BF16")

LARGEST_F16: Final = 65504.0


def decode_floats(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """The values of an array stored as `dtype` ("F32", "F16" or "BF16"), exactly, as float32.

    Raises:
        InvalidTensorError: If `dtype` is none of these.
    """
    if dtype == "BF16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype in ("F32", "F16"):
        return stored.astype(np.float32)
    raise InvalidTensorError(f"dtype: found {dtype}, expected one of {FLOATS}")


def encode_floats(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Round float32 values to `dtype` (nearest, ties to even) and return what is stored.

    Raises:
        InvalidTensorError: If `dtype` is no float type, or finite values do not fit into it.
    """
    if dtype == "F32":
        return np.ascontiguousarray(values, dtype="<f4")
    if dtype == "F16":
        if not _fits_f16(values):
            raise InvalidTensorError(
                f"values: found {np.abs(values).max():g}, expected at most {LARGEST_F16:g} for F16"
            )
        return values.astype("<f2")
    if dtype == "BF16":
        raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        lowest_kept_bit = (raw >> np.uint32(16)) & np.uint32(1)
        return ((raw + np.uint32(0x7FFF) + lowest_kept_bit) >> np.uint32(16)).astype("<u2")
    raise InvalidTensorError(f"dtype: found {dtype}, expected one of {FLOATS}")


def _fits_f16(values: NDArray[np.float32]) -> bool:
    """Whether no value is beyond the range of float16."""
    return values.size == 0 or float(np.abs(values).max()) <= LARGEST_F16
