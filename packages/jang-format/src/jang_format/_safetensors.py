"""The safetensors container: where tensors lie in a file, and laying out new files.

The safetensors library reads and writes whole tensors and whole files, has no bfloat16 for numpy
and says in one word what is wrong with a header; here tensors are mapped and written one by one, in
the library's own order, and every fault is named. A test holds the two against each other.
Source: "Format" in the README of huggingface/safetensors.
"""

import json
import math
import mmap
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from jang_format._dtypes import STORAGE
from jang_format._errors import InvalidFileError, Report, describe, raise_first
from jang_format._files import locate
from jang_format._json import LARGEST_JSON, parse_object

_LENGTH_BYTES: Final = 8
# numpy has a limit too, a higher one.
_MOST_DIMENSIONS: Final = 8
_MOST_BYTES: Final = 2**62
# So that they can be widened to 8 bytes.
_MOST_NUMBERS: Final = _MOST_BYTES // 8
_ENTRY_KEYS: Final = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (safetensors name) and shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * STORAGE[self.dtype].itemsize


class MappedFile:
    """A weight file, and one memory map of it for as long as one of its tensors is in use.

    A map for each tensor would take a file descriptor each, and macOS grants a process 256.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._current: Callable[[], mmap.mmap | None] = lambda: None

    def map(self) -> mmap.mmap:
        """The whole file, read-only.

        Raises:
            OSError, ValueError: If it is gone or empty.
        """
        current = self._current()
        if current is None:
            with self.file.open("rb") as stream:
                current = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._current = weakref.ref(current)
        return current


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: what it is and where its bytes begin."""

    spec: TensorSpec
    source: MappedFile
    offset: int

    @property
    def file(self) -> Path:
        """The file."""
        return self.source.file

    def map(self) -> NDArray[Any]:
        """The data, memory-mapped and read-only; bfloat16 as raw uint16.

        Raises:
            InvalidFileError: If the file cannot be mapped any more.
        """
        dtype = STORAGE[self.spec.dtype]
        if self.spec.nbytes == 0:
            return np.empty(self.spec.shape, dtype=dtype)
        try:
            return np.ndarray(self.spec.shape, dtype, self.source.map(), self.offset)
        except (OSError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "a shorter file than before"
            raise InvalidFileError(self.file, self.spec.name, reason, "its data") from error


@dataclass(frozen=True)
class FileLayout:
    """A file to be written: its first bytes, and where each tensor's data goes."""

    header: bytes
    offsets: Mapping[str, int]
    nbytes: int


def read_header(file: Path, report: Report = raise_first) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name; no data is read.

    Args:
        file: The file.
        report: Receives each problem; tensors that have one are left out.

    Raises:
        MissingFileError: If the file is not there.
        InvalidFileError: If the header breaks the format, or a dtype is none of `STORAGE`.
    """
    return read_weight_file(file, report).tensors


@dataclass(frozen=True)
class WeightFile:
    """What a safetensors file says about itself.

    Attributes:
        tensors: By name.
        metadata: `__metadata__`.
        header: The bytes before the data.
        nbytes: Size of the file.
    """

    tensors: dict[str, StoredTensor]
    metadata: Mapping[str, str]
    header: bytes
    nbytes: int


def read_weight_file(file: Path, report: Report = raise_first) -> WeightFile:
    """Read the header of a safetensors file; see `read_header`.

    Raises:
        MissingFileError: If the file is not there.
        InvalidFileError: If there is no header to be had.
    """
    try:
        prefix, text, nbytes = _read_head(file)
    except OSError as error:
        raise InvalidFileError(file, "file", error.strerror, "a readable file") from error
    try:
        entries = parse_object(text)
    except ValueError as error:
        raise InvalidFileError(file, "header", f"no JSON ({error})", "a JSON object") from error
    metadata = _metadata(file, entries.pop("__metadata__", {}), report)
    start = _LENGTH_BYTES + len(text)
    source = MappedFile(file)
    tensors: dict[str, StoredTensor] = {}
    for name, entry in entries.items():
        try:
            spec, begin = _check_entry(file, name, entry)
        except InvalidFileError as problem:
            report(problem)
        else:
            tensors[name] = StoredTensor(spec=spec, source=source, offset=start + begin)
    if len(tensors) == len(entries):
        _check_spans(file, tensors, start, nbytes, report)
    # Now reported one way or another; nobody can map what is not there.
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.offset + tensor.spec.nbytes <= nbytes
    }
    return WeightFile(tensors=tensors, metadata=metadata, header=prefix + text, nbytes=nbytes)


def _read_head(file: Path) -> tuple[bytes, bytes, int]:
    """The header's length and text, as they stand in the file, and the size of the file."""
    with locate(file.parent, file.name).open("rb") as stream:
        nbytes = stream.seek(0, 2)
        stream.seek(0)
        prefix = stream.read(_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        longest = min(LARGEST_JSON, nbytes - _LENGTH_BYTES)
        if len(prefix) < _LENGTH_BYTES or length > longest:
            raise InvalidFileError(
                file, "header length", length, f"at most {max(longest, 0)} of {nbytes} bytes"
            )
        return prefix, stream.read(length), nbytes


def _metadata(file: Path, found: object, report: Report) -> dict[str, str]:
    # mlx writes null where it has nothing to say.
    if found is None:
        return {}
    if isinstance(found, dict):
        pairs = cast(dict[str, Any], found)
        if all(isinstance(value, str) for value in pairs.values()):
            return pairs
    report(
        InvalidFileError(
            file, "__metadata__", describe(cast(object, found)), "an object of strings"
        )
    )
    return {}


def _check_entry(file: Path, name: str, found: Any) -> tuple[TensorSpec, int]:
    """The tensor that a header entry describes, and where it begins in the data."""

    def refuse(key: str, value: object, expected: str) -> InvalidFileError:
        return InvalidFileError(file, f"{name}{key}", value, expected)

    if not isinstance(found, dict):
        raise refuse("", describe(found), f"an object with {sorted(_ENTRY_KEYS)}")
    entry = cast(dict[str, Any], found)
    if entry.keys() != _ENTRY_KEYS:
        raise refuse("", f"keys {describe_keys(entry)}", f"exactly {sorted(_ENTRY_KEYS)}")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE:
        raise refuse(".dtype", describe(dtype), f"one of {list(STORAGE)}")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise refuse(".shape", describe(shape), f"at most {_MOST_DIMENSIONS} sizes of 0 or more")
    # Zeros count as ones here: numpy multiplies the other sizes all the same.
    if math.prod(max(size, 1) for size in shape) > _MOST_NUMBERS:
        raise refuse(".shape", describe(shape), f"at most {_MOST_NUMBERS} numbers")
    if not _are_sizes(span) or len(span) != 2 or span[1] < span[0]:
        raise refuse(".data_offsets", describe(span), "a begin, and an end not before it")
    spec = TensorSpec(name=name, dtype=dtype, shape=tuple(shape))
    if spec.nbytes != span[1] - span[0]:
        raise refuse(
            ".data_offsets",
            f"{span[1] - span[0]} bytes",
            f"{spec.nbytes} bytes for {dtype} {list(spec.shape)}",
        )
    return spec, span[0]


def describe_keys(entry: Mapping[str, Any]) -> str:
    """The first few keys of an object, for a message."""
    keys = sorted(entry)
    return f"{keys[:4]}" if len(keys) <= 4 else f"{keys[:4]} and {len(keys) - 4} more"


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and all(
        type(size) is int and 0 <= size < _MOST_BYTES for size in cast(list[Any], found)
    )


def _check_spans(
    file: Path, tensors: Mapping[str, StoredTensor], start: int, nbytes: int, report: Report
) -> None:
    """Tensors cover the data from its first byte to the file's last, without hole or overlap."""
    position = start
    ordered = sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.spec.nbytes))
    for tensor in ordered:
        if tensor.offset != position:
            what = "a hole before it" if tensor.offset > position else "an overlap"
            report(
                InvalidFileError(
                    file,
                    f"{tensor.spec.name}.data_offsets",
                    f"{what}, begin {tensor.offset - start}",
                    f"begin {position - start}",
                )
            )
        position = tensor.offset + tensor.spec.nbytes
    if position != nbytes:
        report(InvalidFileError(file, "size", nbytes, f"{position} bytes, as the header says"))


def lay_out(specs: Iterable[TensorSpec], metadata: Mapping[str, str]) -> FileLayout:
    """Header and offsets of a file with these tensors, in the bytes of the safetensors library.

    The library puts wider dtypes first, so that every tensor is aligned, and then goes by name.
    """
    rank = {dtype: place for place, dtype in enumerate(STORAGE)}
    ordered = sorted(specs, key=lambda spec: (-rank[spec.dtype], spec.name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets: dict[str, int] = {}
    position = 0
    for spec in ordered:
        end = position + spec.nbytes
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [position, end],
        }
        offsets[spec.name] = position
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = _LENGTH_BYTES + len(text)
    return FileLayout(
        header=len(text).to_bytes(_LENGTH_BYTES, "little") + text,
        offsets={name: start + offset for name, offset in offsets.items()},
        nbytes=start + position,
    )
