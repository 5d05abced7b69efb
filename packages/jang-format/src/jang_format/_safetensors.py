"""The safetensors container: where tensors lie in a file, and laying out new files.

The safetensors library checks files, but reads and writes whole tensors and whole files, and has
no bfloat16 for numpy; here tensors are mapped and written one by one, in the library's own order.
Source: "Format" in the README of huggingface/safetensors.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from jang_format._dtypes import STORAGE
from jang_format._errors import InvalidFileError, MissingFileError

_LENGTH_BYTES: Final = 8


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


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: what it is and where its bytes begin."""

    spec: TensorSpec
    file: Path
    offset: int

    def map(self) -> NDArray[Any]:
        """The data, memory-mapped and read-only; bfloat16 as raw uint16."""
        dtype = STORAGE[self.spec.dtype]
        if self.spec.nbytes == 0:
            return np.empty(self.spec.shape, dtype=dtype)
        return np.memmap(
            self.file, dtype=dtype, mode="r", offset=self.offset, shape=self.spec.shape
        )


@dataclass(frozen=True)
class FileLayout:
    """A file to be written: its first bytes, and where each tensor's data goes."""

    header: bytes
    offsets: Mapping[str, int]
    nbytes: int


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name; no data is read.

    The library's own parser decides whether the file is valid: header length, JSON, shapes,
    offsets, holes and overlaps. It does not tell where a tensor begins; that is read here.

    Raises:
        MissingFileError: If the file is not there.
        InvalidFileError: If the header breaks the format, or a dtype is none of `STORAGE`.
    """
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    except FileNotFoundError as error:
        raise MissingFileError(f"{file}: no such file") from error
    except SafetensorError as error:
        raise InvalidFileError(file, "header", str(error), "a safetensors header") from error
    header.pop("__metadata__", None)
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if entry["dtype"] not in STORAGE:
            raise InvalidFileError(
                file, f"{name}.dtype", repr(entry["dtype"]), f"one of {list(STORAGE)}"
            )
        spec = TensorSpec(name=name, dtype=entry["dtype"], shape=tuple(entry["shape"]))
        offset = _LENGTH_BYTES + length + entry["data_offsets"][0]
        tensors[name] = StoredTensor(spec=spec, file=file, offset=offset)
    return tensors


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
