"""Files of JSON and text: read, and written whole or not at all."""

import json
import os
import re
from pathlib import Path
from typing import Any, Final, NoReturn

from jang_eval._errors import ResultFileError

# A list of numbers alone; nothing in a text looks so, for line ends are escaped there.
_NUMBERS: Final = re.compile(r"\[\n\s*(-?[0-9][^\[\]{}\"]*?)\n\s*\]")


def document_text(document: dict[str, Any]) -> str:
    """A document as files hold it."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def write_document(document: dict[str, Any], path: Path) -> None:
    """Writes a document, whole or not at all: a reader never sees half of it.

    Raises:
        ResultFileError: The file cannot be written.
    """
    write_whole(document_text(document), path)


def write_whole(text: str, path: Path) -> None:
    """Writes a text as UTF-8, whole or not at all.

    Raises:
        ResultFileError: The file cannot be written.
    """
    check_writable(path)
    # Beside the target, since only within one file system does a rename replace in one step.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be written: {error.strerror}") from error


def shown_path(path: Path) -> str:
    """A path as documents for others have it: from the current directory on, or its name alone."""
    here = Path.cwd().resolve()
    found = path.resolve()
    return found.relative_to(here).as_posix() if found.is_relative_to(here) else path.name


def check_writable(path: Path) -> None:
    """Tells before the work whether a result could be written there.

    Raises:
        ResultFileError: It could not.
    """
    # A rename would put a file in the place of a device such as /dev/null.
    if path.exists() and not path.is_file():
        raise ResultFileError(f"{path}: found something that is no file, expected a file")
    if not path.parent.is_dir():
        raise ResultFileError(f"{path}: found no directory {path.parent}, expected one")
    if not os.access(path.parent, os.W_OK):
        raise ResultFileError(f"{path}: found {path.parent} read-only, expected it writable")


def read_document(path: Path) -> object:
    """The JSON document that a file holds, not looked into.

    Raises:
        ResultFileError: There is no such file, or it does not hold JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ResultFileError(f"{path}: found no JSON ({error}), expected a result") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
