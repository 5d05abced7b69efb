"""Outcomes on disk as they come, so that an interrupted run asks nothing twice."""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, cast

from jang_eval._errors import ResultFileError
from jang_eval._evaluation import Outcome
from jang_eval._records import FieldError, from_json, to_json


class Journal:
    """A file of JSON lines: what the run is, then one outcome a line; use as a context manager.

    Args:
        path: The file; it is made if it is not there.
        run: What makes outcomes belong together, such as task, data, settings and model.

    Raises:
        ResultFileError: If the file belongs to another run, or cannot be read or written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self._path = path
        self.outcomes: dict[str, Outcome] = {}
        with self._errors():
            content = path.read_bytes() if path.exists() else b""
            # The last line is cut short if the run ended while it was written.
            whole = content[: content.rfind(b"\n") + 1]
            if whole:
                self._take(whole.split(b"\n")[:-1], run)
                os.truncate(path, len(whole))
            # Unbuffered, for closing it must not try again what could not be written.
            self._file: FileIO = path.open("ab" if whole else "wb", buffering=0)
        if not whole:
            self._begin(run)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome; it is on disk when this returns.

        Raises:
            ResultFileError: It cannot be written.
        """
        self._write(to_json(outcome))
        self.outcomes[outcome.id] = outcome

    def remove(self) -> None:
        """Delete the file: the result is written.

        Raises:
            ResultFileError: It cannot be deleted.
        """
        with self._errors():
            self._file.close()
            self._path.unlink()

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Turns what the system says of the file into what this package says."""
        try:
            yield
        except OSError as error:
            raise ResultFileError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _take(self, lines: list[bytes], run: Mapping[str, Any]) -> None:
        try:
            found, *entries = [json.loads(line) for line in lines]
            if not isinstance(found, dict):
                raise FieldError("the first line", found, "an object")
            outcomes = [from_json(Outcome, entry) for entry in entries]
        except (ValueError, RecursionError, FieldError) as error:
            raise ResultFileError(
                f"{self._path}: found no journal of a run ({error}), expected one; "
                "delete it to begin anew"
            ) from error
        begun = cast("dict[str, object]", found)
        for name, expected in run.items():
            if begun.get(name) != expected:
                raise ResultFileError(
                    f"{self._path}: {name}: found {begun.get(name)!r} of an interrupted run, "
                    f"expected {expected!r}; delete the file to begin anew"
                )
        self.outcomes = {outcome.id: outcome for outcome in outcomes}

    def _begin(self, run: Mapping[str, Any]) -> None:
        try:
            self._write(dict(run))
        except ResultFileError:
            self._file.close()
            raise

    def _write(self, entry: dict[str, Any]) -> None:
        left = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        with self._errors():
            try:
                while left:
                    # Unbuffered files may take a part.
                    left = left[self._file.write(left) :]
                os.fsync(self._file.fileno())
            except OSError:
                # What comes later must not stand behind half a line.
                with suppress(OSError):
                    self._file.truncate(end)
                raise
