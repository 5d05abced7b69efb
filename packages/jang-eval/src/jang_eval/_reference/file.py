"""A file of what a reference says of a text: a header, then one record for each window.

| bytes | content |
|---|---|
| 8 | `JANGREF1` |
| 8 | length of the header, unsigned, the lowest byte first |
| that many | `Header` as JSON in UTF-8 |
| the rest | a record for each window of the header, in its order |

All numbers of a record have the lowest byte first. n is how many tokens of the window count, V the
length of the vocabulary. A file of prompts has a record for each prompt instead, in which n are all
its tokens; what is said is said of what follows each of them, after the last one of the most likely
token:

| numbers | content |
|---|---|
| n float64 | log-probability of each token that counts |
| `f16`: n x V float16 | logits, less the greatest of their row |
| `top-k:K`: n x K uint32 | the most likely tokens, the most likely first |
| n x K float64 | their log-probabilities |
| n float64 | logarithm of all others' probability |
| 3 float64 | what storing it so has changed: see `Loss` |
| 1 uint32 | CRC-32 of the record before it |
"""

import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
import numpy.typing as npt

from jang_eval._divergence import (
    TOP,
    Ids,
    divergence,
    log_of_sum,
    log_softmax,
    most_likely,
    pick,
)
from jang_eval._errors import DataError, OptionError
from jang_eval._model_info import ModelInfo
from jang_eval._records import to_json
from jang_eval._statistics import Doubles
from jang_eval._windows import Windowing

MAGIC: Final = b"JANGREF1"
FULL: Final = "f16"
_TOP_K: Final = re.compile(r"top-k:([1-9][0-9]{0,6})")
# Logits further below the most likely one are as good as impossible, and float16 ends there.
LOWEST: Final = -65504.0
_PROMPT_MAX: Final = 2**24
# Rows that are worked on at a time.
_ROWS: Final = 64


@dataclass(frozen=True)
class StoredWindow:
    """One record: the window's name, and how many of its tokens count."""

    id: str
    scored: int


@dataclass(frozen=True)
class Header:
    """What the records are of.

    Attributes:
        keep: "f16" or "top-k:K".
        model: The reference.
        data_sha256: Digest of the texts or prompts.
        tokens: `tokens_digest` of the reference's tokens.
        windowing: How the texts are cut; None where prompts are kept.
        windows: The records.
    """

    keep: str
    model: ModelInfo
    data_sha256: str
    tokens: str
    windowing: Windowing | None
    windows: tuple[StoredWindow, ...]

    def __post_init__(self) -> None:
        kept = kept_tokens(self.keep)
        vocabulary = self.model.vocabulary_size
        if not TOP < vocabulary < 2**31:
            raise DataError(f"vocabulary: found {vocabulary} tokens, expected {TOP + 1} to 2**31")
        if kept is not None and not TOP <= kept < vocabulary:
            expected = f"a k from {TOP} to {vocabulary - 1}"
            raise OptionError(f"keep: found {self.keep!r}, expected {expected}")
        if not self.windows or len({each.id for each in self.windows}) < len(self.windows):
            raise DataError("windows: found none or two of one name, expected different names")
        most = self.windowing.window if self.windowing else _PROMPT_MAX
        for each in self.windows:
            if not 0 < each.scored < most:
                found = f"{each.scored} tokens in {each.id!r}"
                raise DataError(f"windows: found {found}, expected 1 to {most - 1}")

    def record_bytes(self, window: StoredWindow) -> int:
        """How long a record is."""
        kept = kept_tokens(self.keep)
        row = 2 * self.model.vocabulary_size if kept is None else 12 * kept + 8
        return window.scored * (8 + row) + 3 * 8 + 4

    def encoded(self) -> bytes:
        """The beginning of the file."""
        text = json.dumps(to_json(self), ensure_ascii=False, allow_nan=False).encode()
        return MAGIC + struct.pack("<Q", len(text)) + text

    def file_bytes(self, begin: int) -> int:
        """How long the file is when all windows are in it, the first after `begin` bytes."""
        return begin + sum(self.record_bytes(each) for each in self.windows)


@dataclass(frozen=True)
class Loss:
    """What storing has changed.

    Attributes:
        total: Sum over the positions of KL(what the server said || what is stored), in nats; for
            top-k with the rest shared out evenly.
        most: The greatest of them.
        flips: Positions where another token is the most likely one now.
    """

    total: float
    most: float
    flips: float

    def described(self, count: int) -> str:
        """In words, of `count` positions."""
        return (
            f"KL mean {self.total / count:.3g}, max {self.most:.3g} nats; "
            f"top-1 changed at {self.flips:.0f} of {count}"
        )


def kept_tokens(keep: str) -> int | None:
    """How many tokens of each position are kept; None means all.

    Raises:
        OptionError: This is no way of keeping them.
    """
    match = _TOP_K.fullmatch(keep)
    if match is None and keep != FULL:
        raise OptionError(f"keep: found {keep!r}, expected f16 or top-k:K such as top-k:256")
    return int(match[1]) if match else None


def record(keep: str, parts: Iterable[npt.NDArray[np.float32]], following: Ids) -> bytes:
    """Make the record of a window.

    Args:
        keep: "f16" or "top-k:K".
        parts: Its logits, some rows `[m, vocabulary]` at a time; never are all of them held.
        following: The tokens that count, `[n]`.
    """
    kept = kept_tokens(keep)
    found: list[_StoredRows] = []
    done = 0
    for rows in _slices(parts):
        next_tokens = following[done : done + len(rows)]
        if kept is None:
            found.append(_stored_whole(rows, next_tokens))
        else:
            found.append(_stored_top(rows, next_tokens, kept))
        done += len(rows)
    lost = np.concatenate([each.lost for each in found])
    losses = np.array([lost.sum(), lost.max(), sum(each.flips for each in found)], "<f8")
    # One kind of number after the other.
    columns = zip(*(each.columns for each in found), strict=True)
    pieces = [piece for column in columns for piece in column] + [losses.tobytes()]
    checksum = reduce(lambda so_far, piece: zlib.crc32(piece, so_far), pieces, 0)
    return b"".join([*pieces, struct.pack("<I", checksum)])


@dataclass(frozen=True)
class _StoredRows:
    """Some rows as they are stored.

    Attributes:
        columns: The bytes of each kind of number.
        lost: KL(what the server said || what is stored), `[m]`.
        flips: Rows in which another token is the most likely one now.
    """

    columns: tuple[bytes, ...]
    lost: Doubles
    flips: int


def _slices(
    parts: Iterable[npt.NDArray[np.float32]],
) -> Iterator[npt.NDArray[np.float32]]:
    # In float64, several times over, all rows of a window would be gigabytes.
    for part in parts:
        for begin in range(0, len(part), _ROWS):
            yield part[begin : begin + _ROWS]


def _stored_whole(rows: npt.NDArray[np.float32], following: Ids) -> _StoredRows:
    exact = log_softmax(rows)
    stored = np.maximum(rows - rows.max(axis=-1, keepdims=True), LOWEST).astype("<f2")
    columns = (_bytes_of_next(exact, following), stored.tobytes())
    return _StoredRows(columns, *_changes(exact, log_softmax(stored)))


def _stored_top(rows: npt.NDArray[np.float32], following: Ids, kept: int) -> _StoredRows:
    exact = log_softmax(rows)
    ids = most_likely(exact, kept)
    logprobs = np.take_along_axis(exact, ids, axis=-1)
    others = exact.copy()
    np.put_along_axis(others, ids, -np.inf, axis=-1)
    rest = log_of_sum(others)
    each = rest - np.log(exact.shape[-1] - kept)
    approximation = np.broadcast_to(each[:, None], exact.shape).copy()
    np.put_along_axis(approximation, ids, logprobs, axis=-1)
    columns = (
        _bytes_of_next(exact, following),
        ids.astype("<u4").tobytes(),
        logprobs.astype("<f8").tobytes(),
        rest.astype("<f8").tobytes(),
    )
    return _StoredRows(columns, *_changes(exact, approximation))


def _bytes_of_next(exact: Doubles, following: Ids) -> bytes:
    return pick(exact, following).astype("<f8").tobytes()


def _changes(exact: Doubles, stored: Doubles) -> tuple[Doubles, int]:
    flips = (exact.argmax(axis=-1) != stored.argmax(axis=-1)).sum()
    return divergence(exact, stored), int(flips)
