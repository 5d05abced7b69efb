"""Hugging Face directories: safetensors in one file or in shards, bf16, f16 or f32."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from jang_format import JangFormatError, StoredTensor, decode_floats, read_header, read_json
from jang_quant._errors import SourceError
from jang_quant._sources.source import Source, SourceTensor
from jang_runtime import JangRuntimeError
from jang_runtime.architecture import build_model, parameter_shapes, read_weights, sanitize

INDEX_FILE: Final = "model.safetensors.index.json"

# What a tokenizer and a generation need, copied as it is. No *.py: models run no code of their own.
SIDE_FILES: Final = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "generation_config.json",
    "chat_template*",
    "*.jinja",
    "*.tiktoken",
    "LICENSE*",
)

_FLOAT_DTYPES: Final = ("F32", "F16", "BF16")
_QUANTIZATION_KEYS: Final = ("quantization", "quantization_config")


def open_directory(directory: Path, name: str | None = None) -> Source:
    """Open a Hugging Face directory as a source.

    Raises:
        SourceError: If it is incomplete, quantized already, or of an unknown architecture.
    """
    try:
        config = flatten_rope_parameters(read_json(directory / "config.json"))
        _refuse_quantized(directory, config)
        files = _weight_files(directory)
        stored = _stored_tensors(files)
        tensors = _model_tensors(directory, config, files, stored)
    except (JangFormatError, JangRuntimeError) as error:
        raise SourceError(str(error)) from error
    return Source(
        name=name or directory.resolve().name,
        config=config,
        tensors=tensors,
        side_files=_side_files(directory),
        quantization=None,
        fingerprint=_fingerprint(directory, files),
        location=directory,
    )


def flatten_rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with `rope_theta` and `rope_scaling` at the top, where mlx-lm reads them.

    transformers 5 writes both only inside `rope_parameters`; without this, models silently run
    with their class's default.
    """
    flat = dict(config)
    parameters = flat.get("rope_parameters")
    if not isinstance(parameters, dict) or "rope_theta" not in parameters:
        # Absent, or one table for each kind of layer, which the classes that have it read.
        return flat
    rope = dict(cast(dict[str, Any], parameters))
    flat.setdefault("rope_theta", rope.pop("rope_theta"))
    if rope.get("rope_type", "default") != "default":
        flat.setdefault("rope_scaling", rope)
    return flat


def _refuse_quantized(directory: Path, config: Mapping[str, Any]) -> None:
    for key in _QUANTIZATION_KEYS:
        if config.get(key):
            raise SourceError(
                f"{directory / 'config.json'}: {key}: found a quantized model, expected one in "
                "bf16, f16 or f32"
            )


def _weight_files(directory: Path) -> list[Path]:
    """The weight files: those of the index if there is one."""
    index = directory / INDEX_FILE
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise SourceError(f"{index}: weight_map: found none, expected tensors and their files")
        names = sorted({str(name) for name in cast(dict[str, Any], weight_map).values()})
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise SourceError(
                f"{index}: weight_map: found {outside[0]!r}, expected a file in the same directory"
            )
        files = [directory / name for name in names]
    else:
        files = sorted(directory.glob("*.safetensors"))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise SourceError(f"{missing[0]}: no such file, and {INDEX_FILE} names it")
    if not files:
        raise SourceError(f"{directory}: found no *.safetensors, expected at least one")
    return files


def _stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if tensor.spec.dtype not in _FLOAT_DTYPES:
                raise SourceError(
                    f"{file}: {name}: found {tensor.spec.dtype}, expected one of {_FLOAT_DTYPES}"
                )
            if name in stored:
                raise SourceError(f"{file}: {name}: found twice, also in {stored[name].file}")
            stored[name] = tensor
    return stored


def _model_tensors(
    directory: Path,
    config: Mapping[str, Any],
    files: list[Path],
    stored: Mapping[str, StoredTensor],
) -> dict[str, SourceTensor]:
    """The checkpoint's tensors under the names and in the layouts of the MLX model."""
    model = build_model(config)
    lazy = read_weights(files)
    origin = {id(array): stored[name] for name, array in lazy.items()}
    sanitized = sanitize(model, dict(lazy))
    expected = parameter_shapes(model)
    _check_complete(directory, {path: tuple(a.shape) for path, a in sanitized.items()}, expected)
    tensors: dict[str, SourceTensor] = {}
    for path in expected:
        array = sanitized[path]
        # What `sanitize` passed on untouched is mapped from the file; only the rest needs MLX.
        untouched = origin.get(id(array))
        tensors[path] = _computed_tensor(array) if untouched is None else _mapped_tensor(untouched)
    return tensors


def _check_complete(
    directory: Path,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise SourceError(
            f"{directory}: {missing[0]}: found no such tensor, expected {len(expected)} "
            f"({len(missing)} are missing)"
        )
    surplus = sorted(found.keys() - expected.keys())
    if surplus:
        raise SourceError(
            f"{directory}: {surplus[0]}: found a tensor that the model does not have "
            f"({len(surplus)} such)"
        )
    for path, shape in expected.items():
        if found[path] != shape:
            raise SourceError(f"{directory}: {path}: found shape {found[path]}, expected {shape}")


def _mapped_tensor(stored: StoredTensor) -> SourceTensor:
    def read() -> NDArray[np.float32]:
        return decode_floats(stored.map(), stored.spec.dtype)

    return SourceTensor(shape=stored.spec.shape, dtype=stored.spec.dtype, read=read)


def _computed_tensor(array: mx.array) -> SourceTensor:
    def read() -> NDArray[np.float32]:
        return np.array(array.astype(mx.float32), dtype=np.float32)

    dtype = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}[array.dtype]
    return SourceTensor(shape=tuple(array.shape), dtype=dtype, read=read)


def _side_files(directory: Path) -> dict[str, bytes | Path]:
    found = {path.name: path for pattern in SIDE_FILES for path in sorted(directory.glob(pattern))}
    return {name: path for name, path in found.items() if path.is_file() and path.suffix != ".py"}


def _fingerprint(directory: Path, files: Iterable[Path]) -> str:
    """Changes when a file is replaced: names, sizes and times, and the small files' content."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(json.dumps([file.name, status.st_size, status.st_mtime_ns]).encode())
    for name, path in sorted(_side_files(directory).items()):
        digest.update(name.encode() + cast(Path, path).read_bytes())
    digest.update((directory / "config.json").read_bytes())
    return digest.hexdigest()
