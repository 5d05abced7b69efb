"""Calibrations of SmolLM2: made by the command line, read for what benchmarks need of them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from commands import JANG_QUANT, SOURCE, once, run, say
from numpy.typing import NDArray

from jang_quant import Source
from jang_quant._calibration.store import SUFFIX, load


def calibrate(text: str, out: Path, options: Sequence[str]) -> Path:
    """Calibrate on a text or on "self" once; a file that is a calibration already is taken."""
    if text.endswith(SUFFIX):
        return Path(text)

    def make(part: Path) -> None:
        say(f"calibrating on {text}")
        run([*JANG_QUANT, "calibrate", SOURCE, str(part), "--text", text, *options])

    return once(out, make)


def tokens_of(calibration: Path, source: Source) -> NDArray[np.int32]:
    """The sequences that were run through the model, `[sequences, length]`."""
    return load(calibration, source).text.tokens


def describe(calibration: Path, source: Source) -> str:
    """What was run through the model, for a page."""
    text = load(calibration, source).text
    sequences, length = text.tokens.shape
    digest = hashlib.sha256(text.tokens.astype("<i4").tobytes()).hexdigest()
    return calibration_sentence(
        {
            "text": text.origin,
            "sequences": sequences,
            "length": length,
            "seed": text.seed,
            "digest": digest,
        }
    )


def calibration_sentence(*texts: Mapping[str, Any]) -> str:
    """What manifests say of calibrations, for a page."""
    described = [
        f"{text['text']}, {text['sequences']} x {text['length']} tokens, seed {text['seed']} "
        f"(sha256 of the tokens {text['digest'][:16]})"
        for text in texts
    ]
    return f"Calibration: {'; '.join(described)}."
