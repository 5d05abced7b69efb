"""Whether a calibration file is one of this source: names, types, shapes and numbers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

import numpy as np

from jang_format import StoredTensor, WeightFile
from jang_quant._calibration.names import (
    DIAGONALS,
    FORMAT,
    GRADIENTS,
    LOOKUPS,
    SHARES,
    TOKENS,
    matrix_name,
    read_values,
)
from jang_quant._calibration.taps import module_of
from jang_quant._calibration.triangle import folded_size
from jang_quant._errors import SourceError
from jang_quant._sources.source import Source

_TEXTS: Final = ("source", "origin", "seed", "keys")


def checked_keys(file: Path, read: WeightFile, source: Source) -> dict[str, str]:
    """By module, the one under whose name its inputs stand, of a file in which all is as it should.

    Raises:
        SourceError: If the file is none, or of another source.
    """
    found = read.metadata.get("format")
    if found != FORMAT:
        raise _error(file, "format", repr(found), f"{FORMAT!r}; `jang-quant calibrate` writes it")
    for name in _TEXTS:
        if name not in read.metadata:
            raise _error(file, name, "nothing", "a text")
    if read.metadata["source"] != source.fingerprint:
        raise _error(file, "source", "another one", source.name)
    if not read.metadata["seed"].isdecimal():
        raise _error(file, "seed", repr(read.metadata["seed"]), "a number")
    keys = _keys(file, read.metadata["keys"])
    _check_tokens(file, read.tensors)
    for path, key in keys.items():
        _check_moments(file, read.tensors, path, key, _shape(file, path, source))
    for name in read.tensors:
        path, _, part = name.rpartition(".")
        if part in (GRADIENTS, LOOKUPS):
            stack, outputs, inputs = _shape(file, path, source)
            shape = (stack, outputs) if part == GRADIENTS else (inputs,)
            _check_numbers(file, read.tensors, name, shape)
            if part == LOOKUPS and read_values(read.tensors[TOKENS]).max() >= outputs:
                raise _error(file, TOKENS, f"tokens beyond {outputs} of {path}", "its rows")
    return keys


def _keys(file: Path, text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    pairs = cast(dict[object, object], found) if isinstance(found, dict) else {None: None}
    if not all(isinstance(one, str) for pair in pairs.items() for one in pair):
        raise _error(file, "keys", text[:40], "a JSON object of texts")
    return cast(dict[str, str], pairs)


def _shape(file: Path, path: str, source: Source) -> tuple[int, int, int]:
    """Matrices, outputs and inputs of a module."""
    tensor = source.tensors.get(f"{module_of(path)}.weight")
    if tensor is None or len(tensor.shape) < 2:
        raise _error(file, path, "a module that the source does not have", "one of its own")
    return math.prod(tensor.shape[:-2]), tensor.shape[-2], tensor.shape[-1]


def _check_tokens(file: Path, stored: Mapping[str, StoredTensor]) -> None:
    spec = stored[TOKENS].spec if TOKENS in stored else None
    if spec is None or spec.dtype != "I32" or len(spec.shape) != 2 or 0 in spec.shape:
        raise _error(file, TOKENS, str(spec), "I32 [sequences, length]")
    if read_values(stored[TOKENS]).min() < 0:
        raise _error(file, TOKENS, "negative numbers", "tokens")


def _check_moments(
    file: Path,
    stored: Mapping[str, StoredTensor],
    path: str,
    key: str,
    shape: tuple[int, int, int],
) -> None:
    """Second moments, as far as they can be checked without reading all of them."""
    matrices, _, inputs = shape
    name = f"{key}.{DIAGONALS}"
    stack = stored[name].spec.shape[0] if name in stored and stored[name].spec.shape else 0
    if stack not in (1, matrices):
        raise _error(file, name, f"{stack} matrices for {path}", f"{matrices}")
    _check_numbers(file, stored, name, (stack, inputs))
    _check_numbers(file, stored, f"{key}.{SHARES}", (stack,))
    shares = read_values(stored[f"{key}.{SHARES}"])
    seen = [int(number) for number in np.flatnonzero(shares)]
    for number in [*seen, *([None] if stack > 1 else [])]:
        part = matrix_name(key, number)
        spec = stored[part].spec if part in stored else None
        if spec is None or spec.dtype != "F32" or spec.shape != (folded_size(inputs),):
            raise _error(file, part, str(spec), f"F32 {(folded_size(inputs),)}")


def _check_numbers(
    file: Path, stored: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...]
) -> None:
    """A tensor of this shape whose numbers are finite and not negative."""
    spec = stored[name].spec if name in stored else None
    if spec is None or spec.dtype != "F32" or spec.shape != shape:
        raise _error(file, name, str(spec), f"F32 {shape}")
    values = read_values(stored[name])
    if not (np.isfinite(values) & (values >= 0)).all():
        raise _error(file, name, "numbers below 0, or none", "means of squares")


def _error(file: Path, field: str, found: str, expected: str) -> SourceError:
    return SourceError(f"{file}: {field}: found {found}, expected {expected}")
