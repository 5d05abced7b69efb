"""Files that are written on their own: there whole, or as they were."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jang_format import OutputError, Summary, TensorSpec, draw, write_tensor_file, write_whole

Write = Callable[[Path], None]

WRITERS: dict[str, Write] = {
    "bytes": lambda file: write_whole(file, b"new"),
    "picture": lambda file: draw(
        Summary("mlx", "a", "p", None, "", 0, 0, 0.0, 0.0, {}, (), ()), file
    ),
    "tensors": lambda file: write_tensor_file(
        file, [TensorSpec("a", "U8", (2,))], [("a", np.zeros(2, dtype=np.uint8))], {}
    ),
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Write:
    return WRITERS[request.param]


def test_a_file_that_is_there_is_replaced(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "file.svg"
    file.write_bytes(b"old")
    write(file)
    assert file.read_bytes() != b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.svg"]


def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "file.svg"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, OutputError), match="No space left on device"):
        write(file)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.svg"]


def test_a_name_may_be_as_long_as_the_file_system_allows(write: Write, tmp_path: Path) -> None:
    file = tmp_path / f"{'n' * 251}.svg"
    write(file)
    assert file.stat().st_size > 0
