"""Reads a file of a reference, and believes nothing of it that it has not checked."""

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from jang_eval._divergence import Expected, FullRows, TopRows
from jang_eval._errors import JangEvalError, ResultFileError
from jang_eval._model_info import ModelInfo
from jang_eval._prompts import Prompt
from jang_eval._records import FieldError, from_json
from jang_eval._reference.file import (
    FULL,
    LOWEST,
    MAGIC,
    Header,
    Loss,
    StoredWindow,
    kept_tokens,
)
from jang_eval._statistics import Doubles
from jang_eval._windows import Text, Window

_HEADER_MAX: Final = 16 * 2**20
# How much more than 1 probabilities may add up to by rounding.
_ROUNDING: Final = 1e-6
# Losses and checksum, at the end of a record.
_TRAILER: Final = struct.Struct("<3dI")


class ReferenceFile:
    """A whole file of a reference; a `Reference` or a `PromptReference`.

    Raises:
        ResultFileError: The file cannot be read, or is none, or is not whole; later, where a
            record is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                self.header, begin = read_header(file, size)
        except OSError as error:
            raise ResultFileError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError, FieldError, JangEvalError) as error:
            shown = " ".join(str(error).split())[:200]
            raise ResultFileError(f"{path}: found no reference ({shown}), expected one") from error
        expected = self.header.file_bytes(begin)
        if size != expected:
            raise ResultFileError(f"{path}: found {size} bytes, expected {expected} by its header")
        self._places: dict[str, tuple[int, StoredWindow]] = {}
        for each in self.header.windows:
            self._places[each.id] = begin, each
            begin += self.header.record_bytes(each)

    @property
    def model(self) -> ModelInfo:
        """Which model it is."""
        return self.header.model

    @property
    def settings(self) -> dict[str, str]:
        """What results say of it: the model, and what storing has changed."""
        loss, kept = self.loss(), self.header.keep
        count = sum(each.scored for each in self.header.windows)
        return {
            "reference": self.model.name,
            "reference digest": self.model.digest,
            "reference kept": kept if kept == FULL else f"{kept}, so KL is a lower bound",
            "reference loss": loss.described(count),
        }

    def tokens_digest(self, texts: Sequence[Text]) -> str:
        """That of the texts that it is of."""
        return self.header.tokens

    def prompts_digest(self, texts: Sequence[str]) -> str:
        """That of the prompts that it is of."""
        return self.header.tokens

    def loss(self) -> Loss:
        """What storing has changed, over all windows."""
        found = np.array([self._losses(*place) for place in self._places.values()])
        if not np.isfinite(found).all():
            raise ResultFileError(f"{self._path}: found losses that are no numbers")
        return Loss(float(found[:, 0].sum()), float(found[:, 1].max()), float(found[:, 2].sum()))

    def expected(self, window: Window) -> Expected:
        """Read the record of a window."""
        return self._record("window", window.id, window.scored)

    def logits(self, prompt: Prompt) -> npt.NDArray[np.floating]:
        """Read the record of a prompt."""
        rows = self._record("prompt", prompt.id, len(prompt.tokens))
        if not isinstance(rows, FullRows) or rows.logits.min() <= LOWEST:
            found = f"infinite or no logits of prompt {prompt.id}"
            raise ResultFileError(f"{self._path}: found {found}, expected finite ones")
        return rows.logits

    def _record(self, kind: str, record_id: str, count: int) -> Expected:
        name = f"{kind} {record_id}"
        begin, stored = self._places.get(record_id, (0, None))
        if stored is None or stored.scored != count:
            raise ResultFileError(f"{self._path}: found no {name}, expected it")
        data = self._read(begin, self.header.record_bytes(stored))
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise ResultFileError(f"{self._path}: found {name} damaged")
        rows = self._rows(data, count)
        if rows is None:
            raise ResultFileError(f"{self._path}: found {name} to be no distribution")
        return rows

    def _rows(self, data: bytes, count: int) -> Expected | None:
        following = np.frombuffer(data, "<f8", count)
        if not ((following <= _ROUNDING) & np.isfinite(following)).all():
            return None
        kept = kept_tokens(self.header.keep)
        if kept is None:
            values = np.frombuffer(data, "<f2", count * self.model.vocabulary_size, 8 * count)
            rows = FullRows(values.reshape(count, -1), following)
            return rows if np.isfinite(values).all() else None
        ids = np.frombuffer(data, "<u4", count * kept, 8 * count)
        logprobs = np.frombuffer(data, "<f8", count * kept, (8 + 4 * kept) * count)
        rest = np.frombuffer(data, "<f8", count, (8 + 12 * kept) * count)
        rows = TopRows(ids.reshape(count, -1), logprobs.reshape(count, -1), rest, following)
        return rows if _is_distribution(rows, self.model.vocabulary_size) else None

    def _losses(self, begin: int, stored: StoredWindow) -> tuple[float, ...]:
        end = begin + self.header.record_bytes(stored)
        return _TRAILER.unpack(self._read(end - _TRAILER.size, _TRAILER.size))[:3]

    def _read(self, begin: int, count: int) -> bytes:
        # Opened each time: threads would share the place where an open file is read.
        try:
            with self._path.open("rb") as file:
                file.seek(begin)
                data = file.read(count)
        except OSError as error:
            raise ResultFileError(f"{self._path}: cannot be read: {error.strerror}") from error
        if len(data) != count:
            raise ResultFileError(f"{self._path}: found it shorter than when it was opened")
        return data


def read_header(file: BinaryIO, size: int) -> tuple[Header, int]:
    """Read the header of a file of `size` bytes; where it ends comes with it.

    Raises:
        ValueError: There is none.
        FieldError: A field does not hold what it should.
        JangEvalError: It says how to cut or keep, but in no way that there is.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("another beginning")
    (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    begin = len(MAGIC) + 8 + length
    if length > _HEADER_MAX or begin > size:
        raise ValueError(f"a header of {length} bytes")
    return from_json(Header, json.loads(file.read(length))), begin


def _is_distribution(rows: TopRows, vocabulary: int) -> bool:
    ids = np.sort(rows.ids, axis=-1)
    is_sound: bool = bool(
        (ids < vocabulary).all()
        and (np.diff(ids.astype(np.int64), axis=-1) > 0).all()
        and not np.isnan(rows.logprobs).any()
        and not np.isnan(rows.rest).any()
        and (np.diff(rows.logprobs, axis=-1) <= 0).all()
        and (rows.logprobs[:, 0] > -np.inf).all()
    )
    return is_sound and bool((_mass(rows) <= 1 + _ROUNDING).all())


def _mass(rows: TopRows) -> Doubles:
    # Far above 1 there is no need to know how far.
    parts = np.concatenate([rows.logprobs, rows.rest[:, None]], axis=-1)
    return np.exp(np.minimum(parts, 1.0)).sum(axis=-1)
