"""Calibration text: the model's own, or that of a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from jang_quant._calibration.statistics import CalibrationText
from jang_quant._errors import SourceError

DEFAULT_SEQUENCES: Final = 128
DEFAULT_LENGTH: Final = 512
_BATCH: Final = 32


def own_text(
    model: nn.Module,
    vocabulary: int,
    *,
    sequences: int = DEFAULT_SEQUENCES,
    length: int = DEFAULT_LENGTH,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibrationText:
    """Text that the model writes itself, each sequence from one random token, at temperature 1.

    Args:
        model: The source model, evaluated.
        vocabulary: How many tokens it has.
        sequences: How many sequences.
        length: Tokens of each.
        seed: Chooses first tokens and samples.
        on_progress: Called with tokens written and tokens in all.
    """
    from mlx_lm.models.cache import make_prompt_cache  # two seconds, which `--help` should not take

    first = np.random.default_rng(seed).integers(0, vocabulary, (sequences, 1), dtype=np.int32)
    written: list[np.ndarray[Any, Any]] = []
    for start in range(0, sequences, _BATCH):
        key = mx.random.key(seed * sequences + start)
        token = mx.array(first[start : start + _BATCH])
        cache = make_prompt_cache(model)
        batch = [token]
        for step in range(length - 1):
            logits = cast(Any, model)(token, cache=cache)[:, -1]
            key, draw = mx.random.split(key)
            token = mx.random.categorical(logits, key=draw)[:, None].astype(mx.int32)
            batch.append(token)
            mx.async_eval(token)  # pyright: ignore[reportUnknownMemberType] - open in its stubs
            on_progress(start * length + (step + 2) * len(batch[0]), sequences * length)
        written.append(np.array(mx.concatenate(batch, axis=1)))
    return CalibrationText(np.concatenate(written).astype(np.int32), "self", seed)


def file_text(
    file: Path,
    encode: Callable[[str], list[int]],
    *,
    sequences: int = DEFAULT_SEQUENCES,
    length: int = DEFAULT_LENGTH,
    seed: int = 0,
) -> CalibrationText:
    """Sequences from a text file, at places chosen by the seed, no two overlapping.

    Args:
        file: UTF-8 text, or JSON lines with `text`.
        encode: The model's tokenizer.
        sequences: At most how many.
        length: Tokens of each.
        seed: Chooses the places.

    Raises:
        SourceError: If the file is not to be read, or too short for one sequence.
    """
    tokens = encode(_read_text(file))
    windows = len(tokens) // length
    if windows == 0:
        raise SourceError(f"{file}: found {len(tokens)} tokens, expected {length} or more")
    chosen = np.random.default_rng(seed).permutation(windows)[:sequences]
    table = np.array(tokens[: windows * length], dtype=np.int32).reshape(windows, length)
    return CalibrationText(table[np.sort(chosen)], file.name, seed)


def _read_text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    if file.suffix not in (".jsonl", ".json"):
        return text
    try:
        return "\n".join(str(json.loads(line)["text"]) for line in text.splitlines() if line)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{file}: found {error}, expected lines of JSON with `text`") from error
