"""What every kind of source gives to the rest of the conversion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jang_format import decode_floats
from jang_quant._errors import SourceError

# Size in bytes and time of the last change in nanoseconds.
Stamp = tuple[int, int]


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a source, read when asked for and not kept.

    Attributes:
        shape: Shape as the MLX model class wants it.
        dtype: How the source stores it: "BF16", "F16", "F32", or a GGUF type such as "Q4_1"; "F32"
            where codes and scales had to be multiplied.
        load: Returns the values and how they are there: "F32", "F16", or "BF16" as raw uint16;
            exactly where the source is a float type.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], tuple[NDArray[Any], str]]

    def read(self) -> NDArray[np.float32]:
        """The values as float32."""
        return decode_floats(*self.load())


@dataclass(frozen=True)
class Source:
    """A model to convert.

    Attributes:
        name: Short name for people: "smollm2", a directory's or file's name, a hub id.
        config: The content of config.json, as mlx-lm reads it.
        tensors: By parameter path of the MLX model, after `sanitize`:
            `model.layers.0.self_attn.q_proj.weight`.
        side_files: Files to be written beside the weights (tokenizer, generation config …),
            by file name; a path is copied, bytes are written.
        dtype: How most of the weights are stored, such as "BF16", "Q4_1" or "FP8 E4M3".
        float_dtype: "BF16" for a model made in bfloat16, whose activations may be beyond the range
            of float16; else "F16".
        quantization: What the source itself is quantized with, such as "GGUF Q4_1, Q8_0";
            None for full precision.
        fingerprint: Changes when the source's bytes change; the key of caches.
        location: The directory or file it is read from, which nothing may be written into.
        stamps: Size and time of the files with weights when it was opened.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]
    side_files: Mapping[str, bytes | Path]
    dtype: str
    float_dtype: str
    quantization: str | None
    fingerprint: str
    location: Path | None = None
    stamps: Mapping[Path, Stamp | None] = field(default_factory=dict[Path, Stamp | None])

    def refuse_changes(self) -> None:
        """Refuse files that are not as they were when the source was opened.

        Raises:
            SourceError: If one has changed, or is gone.
        """
        refuse_changes(self.stamps)


def refuse_changes(stamps: Mapping[Path, Stamp | None]) -> None:
    """Refuse files that have not the stamps any more which they had when they were opened.

    Raises:
        SourceError: If one has changed, or is gone.
    """
    for file, stamp in stamps.items():
        if stamp_of(file) != stamp:
            raise SourceError(f"{file}: found it changed, expected it as it was when opened")


def stamp_of(file: Path) -> Stamp | None:
    """Size and time of a file; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
