"""Files that are there whole or not at all."""

import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

PARTIAL_SUFFIX: Final = ".partial"


@contextmanager
def whole_file(file: Path) -> Generator[BinaryIO]:
    """Write a file that appears under its name, synced, when the block ends, or not at all.

    Args:
        file: The file; it replaces one that is there.

    Raises:
        OSError: If it cannot be written.
    """
    # Not with the file's own name in it, which may be as long as a name can be.
    work = file.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with work.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(work, file)
    finally:
        work.unlink(missing_ok=True)


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and replaces one that is there.

    Raises:
        OSError: If it cannot be written.
    """
    with whole_file(file) as stream:
        stream.write(content)
