"""Calibration of a source: a text run through its model, and statistics of all modules."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn

from jang_quant._calibration.collect import DEFAULT_BACKWARD, Progress, collect
from jang_quant._calibration.statistics import Calibration, CalibrationText
from jang_quant._calibration.texts import (
    DEFAULT_LENGTH,
    DEFAULT_SEQUENCES,
    file_text,
    own_text,
)
from jang_quant._errors import SourceError
from jang_quant._sources.source import Source
from jang_runtime import JangRuntimeError
from jang_runtime.architecture import build_model, quantizable_modules

SELF: Final = "self"


def calibrate(
    source: Source,
    text: str = SELF,
    *,
    sequences: int = DEFAULT_SEQUENCES,
    length: int = DEFAULT_LENGTH,
    backward: int = DEFAULT_BACKWARD,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Calibration:
    """Run text through a source's model and note what its modules see.

    Holds the whole model in memory, in float32.

    Args:
        source: The model.
        text: "self", for text that the model writes itself, or the path of a file.
        sequences: How many sequences.
        length: Tokens of each.
        backward: How many of them go backwards too.
        seed: Chooses the text and the labels.
        on_progress: Called after every sequence.

    Raises:
        SourceError: If the model cannot be built, or the text cannot be had.
    """
    model = _dense_model(source)
    if text == SELF:
        total = sequences * length

        def written(done: int, _: int) -> None:
            on_progress(Progress(done, total, "writing text"))

        rows = _vocabulary(source)
        chosen = own_text(
            model, rows, sequences=sequences, length=length, seed=seed, on_progress=written
        )
    else:
        chosen = file_text(
            Path(text), encoder(source), sequences=sequences, length=length, seed=seed
        )
    return _collect(model, chosen, backward, on_progress)


def _collect(
    model: nn.Module,
    text: CalibrationText,
    backward: int,
    on_progress: Callable[[Progress], None],
) -> Calibration:
    shapes = {path: shape for path, shape in quantizable_modules(model).items() if len(shape) == 2}
    return collect(model, shapes, text, backward=backward, on_progress=on_progress)


def _dense_model(source: Source) -> nn.Module:
    """The source's model with its weights in float32."""
    try:
        model = build_model(source.config)
        load = cast(Callable[[Any], object], getattr(model, "load_weights"))  # noqa: B009
        load([(path, mx.array(tensor.read())) for path, tensor in source.tensors.items()])
    except (JangRuntimeError, ValueError) as error:
        raise SourceError(f"{source.name}: {str(error).splitlines()[0]}") from error
    return model


def _vocabulary(source: Source) -> int:
    """How many tokens the model knows."""
    for section in (source.config, source.config.get("text_config")):
        if isinstance(section, dict) and isinstance(section.get("vocab_size"), int):  # pyright: ignore[reportUnknownMemberType]
            return cast(int, section["vocab_size"])
    raise SourceError(f"{source.name}: config.json: vocab_size: found nothing, expected a number")


def encoder(source: Source) -> Callable[[str], list[int]]:
    """The source's tokenizer, without special tokens."""
    from transformers import AutoTokenizer  # a second, which `--help` should not take

    with tempfile.TemporaryDirectory() as name:
        for file, content in source.side_files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            (Path(name) / file).write_bytes(data)
        try:
            tokenizer = cast(Any, AutoTokenizer.from_pretrained(name))  # pyright: ignore[reportUnknownMemberType]
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise SourceError(
                f"{source.name}: no tokenizer, which a text needs ({reason})"
            ) from error

    def encode(text: str) -> list[int]:
        return cast(list[int], tokenizer.encode(text, add_special_tokens=False))

    return encode
