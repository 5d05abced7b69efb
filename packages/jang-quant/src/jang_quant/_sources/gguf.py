"""GGUF files: the models of llama.cpp, quantized or not."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Final

from jang_quant._sources.gguf_architectures import find_architecture
from jang_quant._sources.gguf_config import build_config, dimensions
from jang_quant._sources.gguf_header import GgufHeader, mismatch, optional
from jang_quant._sources.gguf_parse import read_header
from jang_quant._sources.gguf_rope import ROPE_FACTORS
from jang_quant._sources.gguf_tensors import map_tensors
from jang_quant._sources.gguf_tokenizer import tokenizer_files
from jang_quant._sources.source import Source, stamp_of

_FLOAT_TYPES: Final = frozenset({"F32", "F16", "BF16"})
_SAMPLE: Final = 4096


def open_gguf(path: Path, name: str | None = None) -> Source:
    """Open a GGUF file as a source; no tensor is read yet.

    Args:
        path: The file.
        name: What to call it instead of its file name.

    Raises:
        SourceError: If it is damaged, one part of several, not a language model, or of an
            architecture, a tensor type or a scaling that cannot be converted.
    """
    header = read_header(path)
    _refuse_parts(header)
    architecture = find_architecture(header)
    config = build_config(header, architecture)
    consumed = frozenset({ROPE_FACTORS} if "llama3" in architecture.rope_scaling else ())
    tensors = map_tensors(header, architecture, dimensions(config), consumed)
    tokenizer = tokenizer_files(header, config)
    dtype = _most_common_dtype(header)
    return Source(
        name=name or path.name,
        config={**config, **tokenizer.config},
        tensors=tensors,
        side_files=tokenizer.files,
        dtype=dtype,
        float_dtype="BF16" if dtype == "BF16" else "F16",
        quantization=_quantization(header),
        fingerprint=fingerprint(header),
        location=path,
        stamps={path: stamp_of(path)},
    )


def fingerprint(header: GgufHeader) -> str:
    """A key for what is made from a file, the same on every machine.

    It covers the file's size, all of the header (metadata and tensor table), and 4 KiB from the
    beginning, the middle and the end of every tensor. So it changes whenever metadata or a tensor
    is replaced; an edit of single values between the samples is not seen.

    Raises:
        SourceError: If the file cannot be read any more.
    """
    digest = hashlib.sha256(str(header.file_size).encode())
    try:
        with header.path.open("rb") as file:
            digest.update(file.read(header.data_start))
            for info in header.tensors.values():
                last = info.size - _SAMPLE
                for start in (0, last // 2, last) if last > 0 else (0,):
                    file.seek(info.offset + start)
                    digest.update(file.read(min(_SAMPLE, info.size)))
    except OSError as error:
        raise mismatch(header.path, "data", str(error), "a file that can be read") from error
    return digest.hexdigest()


def _refuse_parts(header: GgufHeader) -> None:
    """Refuse files that are not a whole model."""
    count = optional(header, "split.count", int) or 1
    if count > 1:
        raise mismatch(
            header.path,
            "split.count",
            f"one of {count} parts",
            "a whole model (`llama-gguf-split --merge` makes one of them)",
        )
    kind = optional(header, "general.type", str) or "model"
    if kind != "model":
        raise mismatch(header.path, "general.type", repr(kind), "'model'")


def _quantization(header: GgufHeader) -> str | None:
    """The quantized types, the one with the most parameters first."""
    types = [name for name, _ in _parameters(header).most_common() if name not in _FLOAT_TYPES]
    return f"GGUF {', '.join(types)}" if types else None


def _most_common_dtype(header: GgufHeader) -> str:
    """The type of most weights."""
    return _parameters(header).most_common(1)[0][0]


def _parameters(header: GgufHeader) -> Counter[str]:
    """How many weights are of each type."""
    parameters: Counter[str] = Counter()
    for info in header.tensors.values():
        parameters[info.type.name] += info.parameters
    return parameters
