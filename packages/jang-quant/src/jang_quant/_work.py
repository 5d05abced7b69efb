"""Folders of long work, which a process that was killed leaves and the next one takes up."""

import fcntl
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from jang_format import PARTIAL_SUFFIX, write_whole
from jang_quant._errors import ConversionError

_ASKED: Final = "asked.json"


@contextmanager
def work_folder(out: Path, asked: Mapping[str, Any], *, resume: bool = True) -> Generator[Path]:
    """The folder beside `out` for the work on it; it stays if the work is broken off.

    Args:
        out: What is to be made.
        asked: What the work is, as JSON: all that its files depend on. Other work is removed.
        resume: Whether to take up the work that is there.

    Raises:
        ConversionError: If the folder cannot be made, or another process is at work in it.
    """
    folder = out.absolute().with_name(f".{out.name}{PARTIAL_SUFFIX}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConversionError(f"{folder}: cannot be made ({error.strerror})") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConversionError(f"{out}: another process is at work on it") from error
        if not resume:
            (folder / _ASKED).unlink(missing_ok=True)
        _take_up(folder, asked)
        try:
            yield folder
        except BaseException:
            # Nothing is done yet that somebody could take up.
            if [left.name for left in folder.iterdir()] == [_ASKED]:
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def _take_up(folder: Path, asked: Mapping[str, Any]) -> None:
    """Leave in a folder what this work has put there, and remove what other work has."""
    text = json.dumps(asked, indent=2, sort_keys=True)
    file = folder / _ASKED
    if file.is_file() and file.read_bytes() == text.encode():
        return
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    write_whole(file, text.encode())
