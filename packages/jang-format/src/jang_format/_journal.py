"""The journal of a directory that is being written: which tensors are there whole.

A line for each tensor, after its bytes. Whoever takes up the work trusts no line: the bytes in the
file have to have the digest that the line says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from jang_format._digests import digest_of

_NAME: Final = "tensor"
_DIGEST: Final = "sha256"
_PLAN: Final = "plan"


def plan_digest(headers: Mapping[str, bytes]) -> str:
    """What a journal is of: the weight files' headers."""
    return digest_of(b"".join(name.encode() + header for name, header in sorted(headers.items())))


def read_journal(file: Path, plan: str) -> dict[str, str] | None:
    """Digests by tensor of a journal of this plan; None where there is none.

    A last line that is not whole is left out.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    entries = [entry for line in lines[:-1] if (entry := _parsed(line)) is not None]
    if not entries or entries[0].get(_PLAN) != plan:
        return None
    return {str(entry.get(_NAME)): str(entry.get(_DIGEST)) for entry in entries[1:]}


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return cast(dict[str, Any], found) if isinstance(found, dict) else None


def begin_journal(file: Path, plan: str) -> None:
    """Begin the journal of a plan."""
    file.write_text(json.dumps({_PLAN: plan}) + "\n", encoding="utf-8")


def note_tensor(file: Path, name: str, digest: str) -> None:
    """Note that a tensor's bytes are in its file."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({_NAME: name, _DIGEST: digest}) + "\n")
