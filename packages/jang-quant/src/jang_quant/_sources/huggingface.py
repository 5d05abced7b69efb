"""Hugging Face directories: safetensors in one file or in shards, of floats or quantized."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, cast

from jang_format import JangFormatError, StoredTensor, read_header, read_json
from jang_quant._errors import SourceError
from jang_quant._sources.checkpoint import CheckpointFiles, open_tensors
from jang_quant._sources.config_keys import mlx_config
from jang_quant._sources.prequantized import recognize
from jang_quant._sources.source import Source, stamp_of
from jang_runtime import JangRuntimeError

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


def open_directory(directory: Path, name: str | None = None) -> Source:
    """Open a Hugging Face directory as a source.

    Raises:
        SourceError: If it is incomplete, quantized in a way that cannot be undone, or of an unknown
            architecture.
    """
    try:
        written = read_json(directory / "config.json")
        quantization = recognize(directory, written)
        config = mlx_config(written)
        files = _weight_files(directory)
        stored = _stored_tensors(files)
        tensors = open_tensors(CheckpointFiles(directory, config, files, stored, quantization))
    except (JangFormatError, JangRuntimeError) as error:
        raise SourceError(str(error)) from error
    dtype = _most_common_dtype(stored.values())
    return Source(
        name=name or directory.resolve().name,
        config=config,
        tensors=tensors,
        side_files=_side_files(directory),
        dtype=quantization.label if quantization else dtype,
        float_dtype="BF16" if dtype == "BF16" else "F16",
        quantization=quantization.label if quantization else None,
        fingerprint=_fingerprint(directory, files),
        location=directory,
        stamps={file: stamp_of(file) for file in files},
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
            if name in stored:
                raise SourceError(f"{file}: {name}: found twice, also in {stored[name].file}")
            stored[name] = tensor
    return stored


def _most_common_dtype(stored: Iterable[StoredTensor]) -> str:
    """The type of most values of the files that are no codes."""
    values = Counter[str]()
    for tensor in stored:
        if tensor.spec.dtype in _FLOAT_DTYPES:
            values[tensor.spec.dtype] += math.prod(tensor.spec.shape)
    return max(values, key=values.__getitem__, default="F32")


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
