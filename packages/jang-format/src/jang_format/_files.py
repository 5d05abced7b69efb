"""Access to the files of a directory: regular files inside it, and nothing else."""

import stat
from pathlib import Path
from typing import Any

from jang_format._errors import InvalidFileError, MissingFileError, describe
from jang_format._json import LARGEST_JSON, parse_object


def locate(directory: Path, name: str) -> Path:
    """The path of a file that a directory names.

    A link may lead to another file of the directory, or to where the Hugging Face cache keeps the
    files of a snapshot: `blobs` beside `snapshots`.

    Raises:
        MissingFileError: If it is not there.
        InvalidFileError: If the name is no plain file name, or the file is not a regular one, or
            it is a link out of the directory.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InvalidFileError(directory, "file name", describe(name), "a name without directories")
    file = directory / name
    try:
        resolved = file.resolve(strict=True)
        mode = resolved.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(file, "file", "nothing", "a file") from error
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "a loop of links"
        raise InvalidFileError(file, "file", reason, "a readable file") from error
    home = directory.resolve()
    blobs = home.parent.parent / "blobs"
    if resolved.parent != home and not (
        home.parent.name == "snapshots" and blobs == resolved.parent
    ):
        raise InvalidFileError(file, "link", f"target {resolved}", "a file of this directory")
    if not stat.S_ISREG(mode):
        raise InvalidFileError(file, "file", "no regular file", "a regular file")
    return file


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a directory.

    Raises:
        MissingFileError: If the file is not there.
        InvalidFileError: If it is too large, or holds no JSON object; see `parse_object`.
    """
    located = locate(file.parent, file.name)
    try:
        nbytes = located.stat().st_size
        if nbytes > LARGEST_JSON:
            raise InvalidFileError(file, "size", nbytes, f"at most {LARGEST_JSON} bytes")
        with located.open("rb") as stream:
            return parse_object(stream.read(nbytes))
    except ValueError as error:
        raise InvalidFileError(file, "content", f"no JSON ({error})", "a JSON object") from error
    except OSError as error:
        raise InvalidFileError(file, "file", error.strerror, "a readable file") from error
