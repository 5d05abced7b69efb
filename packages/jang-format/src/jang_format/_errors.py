"""Errors of jang-format.

JangFormatError
├── MissingFileError         a file that the directory has to have is not there
├── InvalidFileError         a file's content breaks the format
├── UnsupportedVersionError  the directory is of a format or version that this package does not know
├── InvalidTensorError       an array does not fit what is asked of it
└── OutputError              the output cannot be written where it was asked for
"""

import json
from collections.abc import Callable
from typing import Any, Final, cast

_LONGEST_PART: Final = 200


class JangFormatError(Exception):
    """Root of all errors of jang-format; the message is one line of printable characters."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class DirectoryError(JangFormatError):
    """What is wrong with one place in a directory.

    Args:
        file: The file, as the user can find it.
        field: The key, tensor or offset inside it.
        found: What stands there.
        expected: What the format wants there.
    """

    def __init__(self, file: object, field: str, found: object, expected: str) -> None:
        self.file = printable(str(file))
        self.field = printable(field)
        self.found = printable(str(found))
        self.expected = printable(expected)
        super().__init__(f"{file}: {self.field}: found {self.found}, expected {expected}")


class MissingFileError(DirectoryError):
    """A file that the directory has to have is not there."""


class InvalidFileError(DirectoryError):
    """A file's content breaks the format."""


class UnsupportedVersionError(DirectoryError):
    """The directory is of a format or version that this package does not know."""


class InvalidTensorError(JangFormatError):
    """An array does not fit what is asked of it: shape, dtype, bits or group size."""


class OutputError(JangFormatError):
    """The output cannot be written where it was asked for."""


# What a check does with a problem: opening raises the first one, validating collects them all.
Report = Callable[[DirectoryError], None]


def raise_first(problem: DirectoryError) -> None:
    """The report of those who need a sound directory."""
    raise problem


def printable(text: str) -> str:
    """The text in one line that no terminal obeys: odd characters escaped, the middle cut out."""
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(escaped) <= _LONGEST_PART * 3:
        return escaped
    return f"{escaped[:_LONGEST_PART]}…{escaped[-_LONGEST_PART:]}"


def first_line(error: Exception, *, named: bool = False) -> str:
    """What another library's error says, in one line; the name of its class if it says nothing.

    Args:
        error: The error, whose message may have many lines or be empty.
        named: Whether the name of its class goes before what it says.
    """
    name = type(error).__name__
    said = str(error).strip().splitlines()
    if not said:
        return name
    return f"{name}: {said[0]}" if named else said[0]


def describe(value: object) -> str:
    """A JSON value for a message: scalars as they are, the rest by its kind."""
    if isinstance(value, dict):
        return f"an object with {len(cast(dict[str, Any], value))} keys"
    if isinstance(value, list):
        items = cast(list[Any], value)
        if len(items) <= 8 and all(type(item) is int and abs(item) < 2**64 for item in items):
            return str(items)
        return f"an array of {len(items)}"
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a huge integer"
    if isinstance(value, str) and len(value) > _LONGEST_PART:
        return f"a string of {len(value)} characters"
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
