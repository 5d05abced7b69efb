"""Calibrations in files, so that the text is run through a model once for many conversions.

A file is a safetensors file: the tokens, and for each module what is known of it. Modules with one
input share one matrix of second moments, in memory and here.
"""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_quant._calibration.statistics import (
    Calibration,
    CalibrationText,
    Floats,
    Lookups,
    ModuleStatistics,
)
from jang_quant._errors import ConversionError, SourceError
from jang_quant._sources.source import Source

SUFFIX: Final = ".safetensors"
_FORMAT: Final = "jang calibration 1"
_TOKENS: Final = "tokens"


def save(calibration: Calibration, source: Source, file: Path) -> None:
    """Write a calibration of a source; the file is there whole or not at all.

    Raises:
        ConversionError: If it cannot be written.
    """
    arrays: dict[str, mx.array] = {_TOKENS: mx.array(calibration.text.tokens)}
    modules: dict[str, dict[str, str]] = {}
    names: dict[int, str] = {}
    for path, known in calibration.modules.items():
        parts: dict[str, Floats | None] = {"hessian": known.hessian, "gradients": known.gradients}
        if known.lookups is not None:
            parts["lookup_frequencies"] = known.lookups.frequencies
            parts["lookup_gradients"] = known.lookups.gradients
        modules[path] = {}
        for part, values in parts.items():
            if values is not None:
                name = names.setdefault(id(values), f"{path}.{part}")
                arrays[name] = mx.array(values)
                modules[path][part] = name
    text = calibration.text
    metadata = {
        "format": _FORMAT,
        "source": source.fingerprint,
        "origin": text.origin,
        "seed": str(text.seed),
        "modules": json.dumps(modules),
    }
    work = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}{SUFFIX}")
    try:
        cast(Any, mx).save_safetensors(str(work), arrays, metadata)
        os.replace(work, file)
    except (OSError, RuntimeError) as error:
        work.unlink(missing_ok=True)
        raise ConversionError(f"{file}: cannot be written ({error})") from error


def load(file: Path, source: Source) -> Calibration:
    """Read a calibration.

    Raises:
        SourceError: If it is none, or one of another source.
    """
    try:
        found = cast(tuple[Any, Any], mx.load(str(file), return_metadata=True))
    except (RuntimeError, ValueError, OSError) as error:
        raise SourceError(f"{file}: cannot be read ({error})") from error
    arrays = cast(Mapping[str, mx.array], found[0])
    metadata = cast(Mapping[str, str], found[1])
    if metadata.get("format") != _FORMAT:
        raise SourceError(
            f"{file}: format: found {metadata.get('format')!r}, expected {_FORMAT!r}; "
            "`jang-quant calibrate` writes it"
        )
    if metadata["source"] != source.fingerprint:
        raise SourceError(f"{file}: source: found another one, expected {source.name}")
    values: dict[str, NDArray[Any]] = {name: np.array(array) for name, array in arrays.items()}
    described = cast(Mapping[str, Mapping[str, str]], json.loads(metadata["modules"]))
    text = CalibrationText(values[_TOKENS], metadata["origin"], int(metadata["seed"]))
    modules = {path: _module(parts, values) for path, parts in described.items()}
    return Calibration(text=text, modules=modules)


def _module(parts: Mapping[str, str], values: Mapping[str, NDArray[Any]]) -> ModuleStatistics:
    known = {part: values[name] for part, name in parts.items()}
    lookups = None
    if "lookup_frequencies" in known:
        lookups = Lookups(known["lookup_frequencies"], known["lookup_gradients"])
    return ModuleStatistics(known.get("hessian"), known.get("gradients"), lookups)
