"""What the header of a GGUF file says, and typed access to its keys."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from gguf.constants import GGMLQuantizationType

from jang_quant._errors import SourceError

T = TypeVar("T", int, float, str, bool, list[Any])


@dataclass(frozen=True)
class TensorInfo:
    """One line of the tensor table.

    Attributes:
        name: As llama.cpp names it: `blk.0.attn_q.weight`.
        shape: In the order of numpy: rows first.
        type: How the values are stored.
        offset: Of the first byte, from the start of the file.
        size: In bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    size: int

    @property
    def parameters(self) -> int:
        """How many values there are."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says before its data.

    Attributes:
        path: The file.
        metadata: Values by key; arrays are lists.
        tensors: By name, in the order of the file.
        data_start: Offset of the first byte after the header.
        file_size: In bytes.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    data_start: int
    file_size: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, the prefix of its keys."""
        return required(self, "general.architecture", str)


def mismatch(path: Path, field: str, found: str, expected: str) -> SourceError:
    """The error for a file that does not say what it should: file, field, found, expected."""
    return SourceError(f"{path}: {_short(field)}: found {_short(found)}, expected {expected}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def required(header: GgufHeader, key: str, kind: type[T]) -> T:
    """The value of `key`.

    Raises:
        SourceError: If it is missing or of another kind.
    """
    value = optional(header, key, kind)
    if value is None:
        raise mismatch(header.path, key, "no such key", f"one ({kind.__name__})")
    return value


def optional(header: GgufHeader, key: str, kind: type[T]) -> T | None:
    """The value of `key`, or None where the file has none.

    A number that is given for each layer counts as one number if it is the same for all.

    Raises:
        SourceError: If the value is of another kind.
    """
    value: Any = header.metadata.get(key)
    if value is None:
        return None
    if kind in (int, float):
        value = _one_number(header, key, value)
    if kind is float and type(value) is int:
        value = float(value)
    # `bool` is a subclass of `int`, so isinstance would take a flag for a number.
    finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) is not kind or not finite:
        raise mismatch(header.path, key, repr(value), kind.__name__)
    return cast(T, value)


def _one_number(header: GgufHeader, key: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    numbers = cast(list[Any], value)
    if not numbers or any(number != numbers[0] for number in numbers):
        raise mismatch(header.path, key, repr(numbers), "one number for all layers")
    return numbers[0]
