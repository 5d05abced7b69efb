"""The record of a window, made of some rows at a time."""

import struct
import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from jang_eval._divergence import divergence, log_of_sum, log_softmax, most_likely, pick
from jang_eval._reference.file import record

VOCABULARY = 1000


def logits(count: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    made = np.random.default_rng(count).normal(scale=4, size=(count, vocabulary))
    return made.astype(np.float32)


def following(count: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(count).integers(vocabulary, size=count).astype(np.uint32)


def as_a_whole(rows: np.ndarray, tokens: np.ndarray, kept: int | None) -> bytes:
    """The record as the form of the file has it, all rows at once."""
    exact = log_softmax(rows)
    if kept is None:
        stored = (rows - rows.max(axis=-1, keepdims=True)).astype("<f2")
        payload, approximation = stored.tobytes(), log_softmax(stored)
    else:
        ids = most_likely(exact, kept)
        logprobs = np.take_along_axis(exact, ids, axis=-1)
        others = exact.copy()
        np.put_along_axis(others, ids, -np.inf, axis=-1)
        rest = log_of_sum(others)
        payload = ids.astype("<u4").tobytes() + logprobs.tobytes() + rest.tobytes()
        approximation = np.repeat((rest - np.log(VOCABULARY - kept))[:, None], VOCABULARY, 1)
        np.put_along_axis(approximation, ids, logprobs, axis=-1)
    lost = divergence(exact, approximation)
    flips = (exact.argmax(axis=-1) != approximation.argmax(axis=-1)).sum()
    losses = np.array([lost.sum(), lost.max(), flips], "<f8").tobytes()
    whole = pick(exact, tokens).tobytes() + payload + losses
    return whole + struct.pack("<I", zlib.crc32(whole))


@pytest.mark.parametrize("kept", [None, 5, 300])
@pytest.mark.parametrize("part", [1, 7, 64, 65, 1000])
def test_a_record_is_the_same_however_its_rows_come(kept: int | None, part: int) -> None:
    rows, tokens = logits(300), following(300)
    keep = "f16" if kept is None else f"top-k:{kept}"
    parts = [rows[begin : begin + part] for begin in range(0, len(rows), part)]
    assert record(keep, parts, tokens) == as_a_whole(rows, tokens, kept)


@pytest.mark.parametrize(("keep", "allowed"), [("f16", 2.5), ("top-k:64", 0.5)])
def test_a_record_takes_little_more_memory_than_it_is_long(keep: str, allowed: float) -> None:
    count, vocabulary = 512, 8192

    def parts() -> Iterator[np.ndarray]:
        for n in range(count):
            yield logits(1, vocabulary) + n

    tracemalloc.start()
    try:
        made = record(keep, parts(), following(count, vocabulary))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    in_16_bits = 2 * count * vocabulary
    assert peak < allowed * in_16_bits
    assert len(made) < peak
