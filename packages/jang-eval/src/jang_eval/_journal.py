"""Outcomes on disk as they come, so that an interrupted run asks nothing twice."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

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
        try:
            content = path.read_bytes() if path.exists() else b""
            # The last line is cut short if the run ended while it was written.
            whole = content[: content.rfind(b"\n") + 1]
            if whole:
                self._take(whole.split(b"\n")[:-1], run)
                os.truncate(path, len(whole))
            self._file: TextIO = path.open("a" if whole else "w", encoding="utf-8", newline="\n")
            if not whole:
                self._write(dict(run))
        except OSError as error:
            raise ResultFileError(f"{path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome; it is on disk when this returns."""
        self.outcomes[outcome.id] = outcome
        self._write(to_json(outcome))

    def remove(self) -> None:
        """Delete the file: the result is written."""
        self._file.close()
        self._path.unlink()

    def _take(self, lines: list[bytes], run: Mapping[str, Any]) -> None:
        try:
            found, *entries = [json.loads(line) for line in lines]
            outcomes = [from_json(Outcome, entry) for entry in entries]
        except (ValueError, RecursionError, FieldError) as error:
            raise ResultFileError(
                f"{self._path}: found no journal of a run ({error}), expected one; "
                "delete it to begin anew"
            ) from error
        for name, expected in run.items():
            if found.get(name) != expected:
                raise ResultFileError(
                    f"{self._path}: {name}: found {found.get(name)!r} of an interrupted run, "
                    f"expected {expected!r}; delete the file to begin anew"
                )
        self.outcomes = {outcome.id: outcome for outcome in outcomes}

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
