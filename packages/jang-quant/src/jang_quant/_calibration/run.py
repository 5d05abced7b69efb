"""Calibration of a source: a text run through its model, and statistics of all modules."""

import hashlib
import io
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from jang_format import JangFormatError, first_line, text_size, write_whole
from jang_quant._calibration.collect import DEFAULT_BACKWARD, Progress, collect
from jang_quant._calibration.names import FORMAT
from jang_quant._calibration.statistics import Calibration, CalibrationText
from jang_quant._calibration.store import join, load
from jang_quant._calibration.texts import (
    DEFAULT_LENGTH,
    DEFAULT_SEQUENCES,
    file_text,
    own_text,
)
from jang_quant._errors import ConversionError, SourceError
from jang_quant._sources.source import Source
from jang_quant._work import work_folder
from jang_runtime import JangRuntimeError
from jang_runtime.architecture import build_model, parameter_shapes, sanitize

SELF: Final = "self"
# The rest is for activations, caches and other programs.
_USABLE: Final = 0.8


def calibrate(
    source: Source,
    file: Path,
    text: str = SELF,
    *,
    sequences: int = DEFAULT_SEQUENCES,
    length: int = DEFAULT_LENGTH,
    backward: int = DEFAULT_BACKWARD,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Calibration:
    """Run text through a source's model and write what its modules see to a file.

    One stage of the model (a layer) is in memory at a time, in float32; only a model that writes
    its own text is there as a whole. Work that was broken off is taken up again where it was.

    Args:
        source: The model.
        file: The file to write; hidden states are kept in a folder beside it, while at work.
        text: "self", for text that the model writes itself, or the path of a file.
        sequences: How many sequences.
        length: Tokens of each.
        backward: How many of them go backwards too.
        seed: Chooses the text and the labels.
        on_progress: Called after every sequence and stage.

    Raises:
        SourceError: If the model cannot be built, or the text cannot be had.
        ConversionError: If files cannot be written.
    """
    asked = {
        "format": FORMAT,
        "source": source.fingerprint,
        "text": _digest(text),
        "numbers": [sequences, length, backward, seed],
    }
    try:
        with work_folder(file, asked) as folder:
            kept = folder / "tokens.npy"
            if kept.exists():
                chosen = CalibrationText(np.load(kept), _origin(text), seed)
            else:
                chosen = _make_text(source, text, sequences, length, seed, on_progress)
                with io.BytesIO() as stream:
                    np.save(stream, chosen.tokens)
                    write_whole(kept, stream.getvalue())
            model = empty_model(source)
            collect(
                model, source.tensors, chosen, folder, backward=backward, on_progress=on_progress
            )
            join(folder, chosen, source, file)
    except (JangFormatError, OSError) as error:
        raise ConversionError(f"{file}: {error}") from error
    return load(file, source)


def _origin(text: str) -> str:
    return SELF if text == SELF else Path(text).name


def _digest(text: str) -> str:
    """What tells one text from another."""
    if text == SELF:
        return SELF
    try:
        return hashlib.sha256(Path(text).read_bytes()).hexdigest()
    except OSError as error:
        raise SourceError(f"{text}: cannot be read ({error.strerror})") from error


def _make_text(
    source: Source,
    text: str,
    sequences: int,
    length: int,
    seed: int,
    on_progress: Callable[[Progress], None],
) -> CalibrationText:
    if text != SELF:
        return file_text(Path(text), encoder(source), sequences=sequences, length=length, seed=seed)
    total = sequences * length

    def written(done: int, _: int) -> None:
        on_progress(Progress(done, total, "writing text"))

    return own_text(
        _whole_model(source),
        _vocabulary(source),
        sequences=sequences,
        length=length,
        seed=seed,
        on_progress=written,
    )


def empty_model(source: Source) -> nn.Module:
    """The source's model, without weights and without parts that the source does not have."""
    try:
        model = build_model(source.config)
        if parameter_shapes(model).keys() != source.tensors.keys():
            # Classes drop their head when they are given the tensors of a model without one.
            sanitize(model, {path: mx.zeros(t.shape) for path, t in source.tensors.items()})
        return model
    except JangRuntimeError as error:
        raise SourceError(f"{source.name}: {first_line(error)}") from error


def _whole_model(source: Source) -> nn.Module:
    """The source's model with its weights in float32.

    Raises:
        SourceError: If it cannot be built, or is larger than this machine's memory.
    """
    needed = sum(math.prod(tensor.shape) * 4 for tensor in source.tensors.values())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory * _USABLE:
        raise SourceError(
            f"{source.name}: --calibration self: found {memory / 1e9:.1f} GB of memory, expected "
            f"{needed / _USABLE / 1e9:.1f} GB, which a model takes that writes its own text; give "
            "a text with --calibration FILE"
        )
    model = empty_model(source)
    load_weights = cast(Any, model).load_weights
    try:
        load_weights([(path, mx.array(tensor.read())) for path, tensor in source.tensors.items()])
    except ValueError as error:
        raise SourceError(f"{source.name}: {first_line(error)}") from error
    return model


def _vocabulary(source: Source) -> int:
    """How many tokens the model knows."""
    size = text_size(source.config, "vocab_size")
    if size is None:
        raise SourceError(
            f"{source.name}: config.json: vocab_size: found nothing, expected 1 or more"
        )
    return size


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
            raise SourceError(
                f"{source.name}: no tokenizer, which a text needs ({first_line(error)})"
            ) from error

    def encode(text: str) -> list[int]:
        return cast(list[int], tokenizer.encode(text, add_special_tokens=False))

    return encode
