"""Hidden states of many sequences in one file: arrays of one shape, one `.npy` after the other."""

import os
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


def append_row(file: Path, row: mx.array) -> None:
    """Add the hidden states of the next sequence."""
    with file.open("ab") as stream:
        np.save(stream, cast(NDArray[np.float32], np.array(row.astype(mx.float32))))


def read_row(file: Path, index: int) -> NDArray[np.float32]:
    """The hidden states of a sequence, float32."""
    with file.open("rb") as stream:
        np.load(stream)
        stream.seek(index * stream.tell())
        return np.load(stream)


def keep_rows(file: Path, kept: int) -> None:
    """Drop all but the first rows."""
    with file.open("rb") as stream:
        np.load(stream)
        os.truncate(file, kept * stream.tell())
