"""How far apart two stored tensors are, in bytes and in the values that they stand for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jang_format._dtypes import FLOATS, decode_floats
from jang_format._quantized import QuantizedTensor, dequantize, uniform_bit_map
from jang_format._safetensors import StoredTensor

# Values, or bytes, that are looked at together.
_CHUNK: Final = 1 << 21

Stored = QuantizedTensor | StoredTensor


@dataclass(frozen=True)
class ModuleSide:
    """How one directory stores a module, or a tensor that is not quantized.

    Attributes:
        bits: Mean width of the codes; None for what is not quantized.
        group_size: Weights that share scale and bias; None for what is not quantized.
        dtype: Type of the scales, or of the values.
        shape: Shape of the values.
    """

    bits: float | None
    group_size: int | None
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModuleDifference:
    """A module that both directories have.

    The distances are of values in float32; None where there are none to be had: the shapes differ,
    values are no floats, or not finite, or (the relative one) those of A are all zero.

    Attributes:
        path: Module path; the tensor's name where it is quantized in neither.
        a: How A stores it.
        b: How B stores it.
        identical: Whether the stored bytes are the same; the distances are 0 then.
        relative_rms: Norm of the difference, divided by the norm of A.
        largest: Largest absolute difference.
    """

    path: str
    a: ModuleSide
    b: ModuleSide
    identical: bool
    relative_rms: float | None
    largest: float | None


def compare(path: str, a: Stored, b: Stored) -> ModuleDifference:
    side_a, side_b = _side(a), _side(b)
    identical = side_a == side_b and _same_bytes(a, b)
    relative_rms, largest = (0.0, 0.0) if identical else _distances(a, b)
    return ModuleDifference(path, side_a, side_b, identical, relative_rms, largest)


def _side(tensor: Stored) -> ModuleSide:
    if isinstance(tensor, StoredTensor):
        return ModuleSide(None, None, tensor.spec.dtype, tensor.spec.shape)
    bits = tensor.bits or (tensor.bit_map.mean() if tensor.bit_map.size else 0)
    return ModuleSide(float(bits), tensor.group_size, tensor.dtype, tensor.shape)


def _same_bytes(a: Stored, b: Stored) -> bool:
    arrays_a, arrays_b = _arrays(a), _arrays(b)
    return arrays_a.keys() == arrays_b.keys() and all(
        _same_array(array, arrays_b[part]) for part, array in arrays_a.items()
    )


def _arrays(tensor: Stored) -> dict[str, NDArray[Any]]:
    if isinstance(tensor, StoredTensor):
        return {"values": tensor.map()}
    parts = {
        "packed": tensor.packed,
        "bit_map": tensor.bit_map,
        "scales": tensor.scales,
        "biases": tensor.biases,
        "zeros": tensor.zeros,
    }
    return {part: array for part, array in parts.items() if array is not None}


def _same_array(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether the bytes are the same, so that a NaN is equal to itself."""
    bytes_a, bytes_b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return bytes_a.size == bytes_b.size and all(
        np.array_equal(bytes_a[start : start + _CHUNK], bytes_b[start : start + _CHUNK])
        for start in range(0, bytes_a.size, _CHUNK)
    )


def _distances(a: Stored, b: Stored) -> tuple[float | None, float | None]:
    """Relative RMS and largest difference of the values, in float64, some rows at a time."""
    side_a, side_b = _side(a), _side(b)
    if side_a.shape != side_b.shape or {side_a.dtype, side_b.dtype} - set(FLOATS):
        return None, None
    rows, columns = _matrix(side_a.shape)
    read_a, read_b = _row_reader(a), _row_reader(b)
    step = max(1, _CHUNK // max(1, columns))
    squares, squares_of_difference, largest = 0.0, 0.0, np.float64(0)
    # What is not finite shows in the result.
    with np.errstate(all="ignore"):
        for start in range(0, rows if columns else 0, step):
            values = read_a(start, min(start + step, rows)).astype(np.float64)
            difference = values - read_b(start, min(start + step, rows))
            squares += float(np.vdot(values, values))
            squares_of_difference += float(np.vdot(difference, difference))
            # Unlike max of Python, this keeps a NaN.
            largest = np.maximum(largest, np.abs(difference).max())
    if not math.isfinite(squares + squares_of_difference):
        return None, None
    if squares:
        return math.sqrt(squares_of_difference / squares), float(largest)
    return (None if squares_of_difference else 0.0), float(largest)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of values of any shape; a vector is one column."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) >= 2 else (math.prod(shape), 1)


def _row_reader(tensor: Stored) -> Callable[[int, int], NDArray[np.float32]]:
    """What gives the rows from one up to another of a tensor's values, float32 `[rows, in]`."""
    if isinstance(tensor, StoredTensor):
        stored = tensor.map().reshape(_matrix(tensor.spec.shape))
        return lambda start, stop: decode_floats(stored[start:stop], tensor.spec.dtype)
    rows, columns = _matrix(tensor.shape)
    by_row = (rows, tensor.scales.shape[-1])
    widths = uniform_bit_map(tensor.bits, by_row) if tensor.bits else tensor.bit_map.reshape(by_row)
    places = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(widths.sum(axis=1, dtype=np.int64) * (tensor.group_size // 8), out=places[1:])

    def read(start: int, stop: int) -> NDArray[np.float32]:
        part = replace(
            tensor,
            packed=tensor.packed[places[start] : places[stop]],
            bit_map=widths[start:stop],
            scales=tensor.scales.reshape(by_row)[start:stop],
            biases=None if tensor.biases is None else tensor.biases.reshape(by_row)[start:stop],
            zeros=None if tensor.zeros is None else tensor.zeros.reshape(by_row)[start:stop],
            shape=(stop - start, columns),
        )
        return dequantize(part)

    return read
