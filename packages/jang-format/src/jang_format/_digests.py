"""Digests of everything in a directory, so that a flipped bit is found.

SHA-256 rather than a faster checksum: it is in Python's library and on every machine, processors
have instructions for it (1.7 GB/s measured on two of them), and the digest of the digests names the
directory in a way that nobody can forge.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from jang_format._errors import InvalidFileError, Report, describe
from jang_format._files import locate, read_json

DIGESTS_FILE: Final = "jang_digests.json"
ALGORITHM: Final = "sha256"
_CHUNK_BYTES: Final = 1 << 22
_HEX_DIGITS: Final = set("0123456789abcdef")


@dataclass(frozen=True)
class Digests:
    """SHA-256 in lower-case hex of each part of a directory.

    Attributes:
        tensors: Of each tensor's bytes, by name.
        headers: Of each weight file's bytes before the data, by file name.
        files: Of every other file that was written with them, by file name.
    """

    tensors: Mapping[str, str]
    headers: Mapping[str, str]
    files: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The content of jang_digests.json."""
        return {
            "algorithm": ALGORITHM,
            "files": dict(sorted(self.files.items())),
            "headers": dict(sorted(self.headers.items())),
            "tensors": dict(sorted(self.tensors.items())),
        }


def digest_of(content: bytes) -> str:
    """Digest of bytes."""
    return hashlib.sha256(content).hexdigest()


def digest_of_array(data: NDArray[Any]) -> str:
    """Digest of an array's bytes, row after row."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    sha256 = hashlib.sha256()
    for start in range(0, flat.size, _CHUNK_BYTES):
        sha256.update(flat[start : start + _CHUNK_BYTES].data)
    return sha256.hexdigest()


def digest_of_file(file: Path) -> str:
    """Digest of a file's content.

    Raises:
        InvalidFileError: If it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, ALGORITHM).hexdigest()
    except OSError as error:
        raise InvalidFileError(file, "file", error.strerror, "a readable file") from error


def read_digests(directory: Path, report: Report) -> Digests:
    """Read jang_digests.json.

    Raises:
        MissingFileError: If it is not there.
        InvalidFileError: If it is no JSON object.
    """
    file = directory / DIGESTS_FILE
    content = read_json(file)
    if content.get("algorithm") != ALGORITHM:
        found = describe(content.get("algorithm"))
        report(InvalidFileError(file, "algorithm", found, repr(ALGORITHM)))
    surplus = sorted(content.keys() - {"algorithm", "files", "headers", "tensors"})
    if surplus:
        report(InvalidFileError(file, surplus[0], "a key", "algorithm, files, headers, tensors"))
    parts = (_read_part(file, content, part, report) for part in ("tensors", "headers", "files"))
    return Digests(*parts)


def directory_digest(directory: Path) -> str | None:
    """One digest for a whole directory: that of its digests; None where it has none.

    Raises:
        InvalidFileError: If the digests are no regular file of the directory.
    """
    if not (directory / DIGESTS_FILE).exists():
        return None
    return digest_of_file(locate(directory, DIGESTS_FILE))


def _read_part(file: Path, content: Mapping[str, Any], part: str, report: Report) -> dict[str, str]:
    found = content.get(part)
    if not isinstance(found, dict):
        report(InvalidFileError(file, part, describe(found), "an object of digests"))
        return {}
    digests: dict[str, str] = {}
    for name, digest in cast(dict[str, Any], found).items():
        if isinstance(digest, str) and len(digest) == 64 and _HEX_DIGITS.issuperset(digest):
            digests[name] = digest
        else:
            field = f"{part}.{name}"
            report(InvalidFileError(file, field, describe(digest), "64 lower-case hex digits"))
    return digests
