"""Calibrations in files, so that text is run through a model once for many conversions.

A file is a safetensors file: the tokens, and for each module what is known of it. Modules with one
input share its second moments; upper halves of them are kept, and read when they are asked for.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from jang_format import (
    JangFormatError,
    StoredTensor,
    TensorSpec,
    read_weight_file,
    write_tensor_file,
)
from jang_quant._calibration.check import checked_keys
from jang_quant._calibration.inputs import InputSums
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
from jang_quant._calibration.statistics import (
    Calibration,
    CalibrationText,
    Floats,
    Lookups,
    ModuleStatistics,
    SecondMoments,
)
from jang_quant._calibration.taps import head_of, module_of
from jang_quant._calibration.triangle import folded_size, from_upper, upper_of
from jang_quant._errors import ConversionError, SourceError
from jang_quant._sources.source import Source

SUFFIX: Final = ".safetensors"
# An expert that saw fewer inputs than a quarter of their number does not know how they go together.
_FEWEST_INPUTS: Final = 0.25

_Stored = Mapping[str, StoredTensor]
_Named = dict[str, NDArray[Any]]


def write_moments(
    file: Path, key_of: Mapping[str, str], found: Mapping[str, InputSums], tokens: int
) -> None:
    """Write the second moments of a stage.

    Args:
        file: The file.
        key_of: By module, the one under whose name its inputs stand.
        found: Sums over the inputs, by that name.
        tokens: How many tokens the text has.
    """
    specs: list[TensorSpec] = []
    for key, inputs in found.items():
        width = next(iter(inputs.sums.values())).shape[0]
        specs += [
            TensorSpec(f"{key}.{DIAGONALS}", "F32", (inputs.stack, width)),
            TensorSpec(f"{key}.{SHARES}", "F32", (inputs.stack,)),
        ]
        names = [matrix_name(key, number) for number in inputs.sums]
        pooled = [matrix_name(key, None)] if inputs.stack > 1 else []
        specs += [TensorSpec(name, "F32", (folded_size(width),)) for name in names + pooled]
    tensors = (part for key, inputs in found.items() for part in _moments(key, inputs, tokens))
    _write(file, specs, tensors, {"keys": json.dumps(key_of)})


def _moments(key: str, inputs: InputSums, tokens: int) -> Iterator[tuple[str, NDArray[Any]]]:
    width = next(iter(inputs.sums.values())).shape[0]
    diagonals = np.zeros((inputs.stack, width), dtype=np.float32)
    counts = np.zeros(inputs.stack, dtype=np.float32)
    pooled = np.zeros((width, width), dtype=np.float32)
    for number, total in inputs.sums.items():
        counts[number] = inputs.counts[number]
        sums = cast(Floats, np.array(total))
        if inputs.stack > 1:
            pooled += sums
        sums /= counts[number]
        diagonals[number] = np.diagonal(sums)
        yield matrix_name(key, number), upper_of(sums)
    if inputs.stack > 1:
        pooled /= counts.sum()
        diagonals[_too_few(counts, width)] = np.diagonal(pooled)
        yield matrix_name(key, None), upper_of(pooled)
    yield f"{key}.{DIAGONALS}", diagonals
    yield f"{key}.{SHARES}", counts / np.float32(tokens)


def _too_few(counts: NDArray[np.floating[Any]], width: int) -> NDArray[np.bool_]:
    """Which matrices with `width` inputs saw too few rows to have moments of their own."""
    return counts < _FEWEST_INPUTS * width


def write_gradients(
    file: Path, outputs: Mapping[str, Floats], lookups: Mapping[str, Floats]
) -> None:
    """Write the mean squared gradients of a stage, by module."""
    named = {f"{path}.{GRADIENTS}": values for path, values in outputs.items()}
    named |= {f"{path}.{LOOKUPS}": values for path, values in lookups.items()}
    _write(file, [_spec(name, values) for name, values in named.items()], named.items(), {})


def join(folder: Path, text: CalibrationText, source: Source, file: Path) -> None:
    """Make one file of those that a finished collection left in its folder.

    Raises:
        ConversionError: If it cannot be written.
    """
    parts = [*folder.glob(f"moments-*{SUFFIX}"), *folder.glob(f"gradients-*{SUFFIX}")]
    parts.sort()
    stored: dict[str, StoredTensor] = {}
    keys: dict[str, str] = {}
    for part in parts:
        read = read_weight_file(part)
        stored |= read.tensors
        keys |= json.loads(read.metadata.get("keys", "{}"))
    tokens: _Named = {TOKENS: text.tokens}
    specs = [_spec(TOKENS, text.tokens), *(tensor.spec for tensor in stored.values())]
    metadata = {
        "format": FORMAT,
        "source": source.fingerprint,
        "origin": text.origin,
        "seed": str(text.seed),
        "keys": json.dumps(keys),
    }
    copied = ((name, read_values(tensor)) for name, tensor in stored.items())
    # In the folder, so that nothing is left beside it; and without its parts only once it is whole.
    joined = folder / f"joined{SUFFIX}"
    _write(joined, specs, _chained(tokens.items(), copied), metadata)
    os.replace(joined, file)


def _chained(*parts: Iterable[tuple[str, NDArray[Any]]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for part in parts:
        yield from part


def load(file: Path, source: Source) -> Calibration:
    """Open a calibration; its large matrices are read when they are asked for.

    Raises:
        SourceError: If it is none, or one of another source.
    """
    try:
        read = read_weight_file(file)
    except JangFormatError as error:
        raise SourceError(str(error)) from error
    keys = checked_keys(file, read, source)
    metadata, stored = read.metadata, read.tensors
    text = CalibrationText(
        cast(NDArray[np.int32], read_values(stored[TOKENS])),
        metadata["origin"],
        int(metadata["seed"]),
    )
    moments = {key: _second_moments(stored, key) for key in set(keys.values())}
    paths = [*keys, *(name.rpartition(".")[0] for name in stored if name.endswith(_MEASURED))]
    modules = {
        path: _module(stored, path, keys, moments, source, text)
        for path in dict.fromkeys(module_of(path) for path in paths)
    }
    return Calibration(text=text, modules=modules)


_MEASURED: Final = (f".{GRADIENTS}", f".{LOOKUPS}")


def _module(
    stored: _Stored,
    path: str,
    keys: Mapping[str, str],
    moments: Mapping[str, SecondMoments],
    source: Source,
    text: CalibrationText,
) -> ModuleStatistics:
    """What is known of a module, and of an embedding at work as the head."""
    as_head = head_of(path)
    key = keys.get(path, keys.get(as_head))
    gradients = stored.get(f"{path}.{GRADIENTS}", stored.get(f"{as_head}.{GRADIENTS}"))
    looked_up = stored.get(f"{path}.{LOOKUPS}")
    lookups = None
    if looked_up is not None:
        lookups = Lookups(_frequencies(text, source, path), read_values(looked_up))
    return ModuleStatistics(
        moments=None if key is None else moments[key],
        gradients=None if gradients is None else read_values(gradients),
        lookups=lookups,
    )


def _frequencies(text: CalibrationText, source: Source, path: str) -> Floats:
    """Share of the tokens that take each row of an embedding."""
    rows = source.tensors[f"{path}.weight"].shape[-2]
    counts = np.bincount(text.tokens.reshape(-1), minlength=rows)
    return (counts / counts.sum()).astype(np.float32)


def _second_moments(stored: _Stored, key: str) -> SecondMoments:
    diagonals = read_values(stored[f"{key}.{DIAGONALS}"])
    shares = read_values(stored[f"{key}.{SHARES}"])
    tokens = float(np.prod(stored[TOKENS].spec.shape))
    stack, width = diagonals.shape
    few = np.flatnonzero(_too_few(np.rint(shares * tokens), width))
    sparse = tuple(few.tolist()) if stack > 1 else ()

    def read(number: int) -> Floats:
        own = 0 if stack == 1 else number
        tensor = stored[matrix_name(key, None if own in sparse else own)]
        values = read_values(tensor)
        if not np.isfinite(values).all():
            raise SourceError(f"{tensor.file}: {tensor.spec.name}: found NaN or infinity")
        return from_upper(values, width)

    return SecondMoments(diagonals=diagonals, shares=shares, read=read, sparse=sparse)


def _spec(name: str, values: NDArray[Any]) -> TensorSpec:
    return TensorSpec(name, _DTYPES[values.dtype], values.shape)


_DTYPES: Final = {np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}


def _write(
    file: Path,
    specs: Iterable[TensorSpec],
    tensors: Iterable[tuple[str, NDArray[Any]]],
    metadata: Mapping[str, str],
) -> None:
    try:
        write_tensor_file(file, specs, tensors, metadata)
    except JangFormatError as error:
        raise ConversionError(str(error)) from error
