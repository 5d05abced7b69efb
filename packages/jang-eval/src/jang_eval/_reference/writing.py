"""Writes a file of a reference, window by window, and goes on where it was interrupted."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from jang_eval._documents import check_writable
from jang_eval._errors import JangEvalError, OptionError, ResultFileError
from jang_eval._reference.file import Header
from jang_eval._running import journal_path


def write_reference(
    header: Header,
    make: Callable[[int], bytes],
    output: Path,
    *,
    max_bytes: int,
    in_flight: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a file of a reference, record by record.

    Args:
        header: What is kept, and how.
        make: Makes the record of the header's n-th window or prompt, from 0; called in several
            threads at once.
        output: The file; until it is whole, what has come stands in `.FILE.partial` beside it.
        max_bytes: The most that the file may have.
        in_flight: How many records to make at a time.
        on_progress: Called with records stored and records in all.

    Raises:
        OptionError: The file would be larger than allowed, or than the disk has room for.
        ResultFileError: The file cannot be written, or another run's beginning is in its place.
    """
    check_writable(output)
    beginning = header.encoded()
    size = header.file_bytes(len(beginning))
    if size > max_bytes:
        raise OptionError(
            f"{output}: found {_megabytes(size)} to store, expected at most "
            f"{_megabytes(max_bytes)}; keep less of each position, or take fewer windows"
        )
    partial = journal_path(output)
    try:
        done, there = _begun(partial, beginning, header)
        free = shutil.disk_usage(output.parent).free
        if size - there > free:
            raise OptionError(
                f"{output}: found {_megabytes(size - there)} to store, "
                f"expected at most the {_megabytes(free)} that are free there"
            )
        with partial.open("r+b" if there else "wb") as file:
            if there:
                file.truncate(there)
                file.seek(there)
            else:
                file.write(beginning)
            count = len(header.windows)
            on_progress(done, count)
            with closing(_in_order(make, range(done, count), in_flight)) as records:
                for place, record in enumerate(records, done + 1):
                    file.write(record)
                    file.flush()
                    os.fsync(file.fileno())
                    on_progress(place, count)
        partial.replace(output)
    except OSError as error:
        raise ResultFileError(f"{output}: cannot be written: {error.strerror}") from error


def _in_order(
    make: Callable[[int], bytes], places: Sequence[int], in_flight: int
) -> Generator[bytes]:
    """Records as they stand in the file; no more are made or wait to be written than are asked.

    Each holds the logits of a whole window.
    """
    pool = ThreadPoolExecutor(in_flight)
    begun: deque[Future[bytes]] = deque()
    try:
        for place in places:
            begun.append(pool.submit(make, place))
            if len(begun) == in_flight:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    except JangEvalError:
        # The server is not left with questions whose answers nobody takes.
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        # On Ctrl-C what is still under way is not waited for: the caller closes its connection.
        pool.shutdown(wait=False, cancel_futures=True)


def stored_beginning(path: Path, length: int) -> bytes:
    """The first bytes of a file, as many as there are.

    Raises:
        ResultFileError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be read: {error.strerror}") from error


def _begun(partial: Path, beginning: bytes, header: Header) -> tuple[int, int]:
    """How many windows an interrupted run has stored, and how many bytes they are."""
    if not partial.exists():
        return 0, 0
    size = partial.stat().st_size
    found = stored_beginning(partial, len(beginning))
    if not beginning.startswith(found):
        raise ResultFileError(
            f"{partial}: found the beginning of another reference, expected this one's; "
            "delete it to begin anew"
        )
    if len(found) < len(beginning):
        return 0, 0
    done, end = 0, len(beginning)
    for window in header.windows:
        if end + header.record_bytes(window) > size:
            break
        end += header.record_bytes(window)
        done += 1
    return done, end


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
