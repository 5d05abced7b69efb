"""Which models the protocol is run for, and how they are made."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jang_eval._documents import write_document
from jang_eval._errors import OptionError, ProgramError, ResultFileError
from jang_eval._protocol.programs import run_converter

REFERENCE: Final = "reference"
# 8 bits in groups of 32, which hold what GGUF's 4-bit groups of 32 hold nearly exactly.
REFERENCE_ARGUMENTS: Final = ("--bits", "9", "--group-size", "32")
# What `jang-quant convert` takes besides directories.
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PACKAGED: Final = "smollm2"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class Candidate:
    """A model that is judged.

    Attributes:
        name: In tables, and of its files.
        directory: What is served.
        source: What is converted, as `jang-quant convert` takes it; None where the directory is
            there already.
        arguments: Of `jang-quant convert` after source and directory.
    """

    name: str
    directory: Path
    source: str | None = None
    arguments: tuple[str, ...] = ()


def candidates(
    source: str,
    models: Path,
    *,
    profiles: Sequence[str],
    bits: Sequence[float],
    directories: Sequence[tuple[str, Path]],
    reference: str | None,
    method: Sequence[str],
) -> list[Candidate]:
    """All models, the reference first: served as it is if it is a directory, else as 8 bits.

    Args:
        source: As `jang-quant convert` takes it.
        models: Where conversions go.
        profiles: With or without "JANG_".
        bits: Bits per weight.
        directories: Of models that are there, by name.
        reference: To take for the reference instead of the source.
        method: Arguments of `jang-quant convert` for all conversions but the reference's.

    Raises:
        OptionError: A name comes twice or is none for a file, or a directory is missing.
    """
    names = [each if each.startswith("JANG_") else f"JANG_{each}" for each in profiles]
    found = [
        _reference(source if reference is None else _checked(reference), models),
        *(Candidate(n, models / n, source, ("--profile", n, *method)) for n in names),
        *(
            Candidate(f"bits-{b:g}", models / f"bits-{b:g}", source, ("--bits", f"{b:g}", *method))
            for b in bits
        ),
        *(Candidate(name, directory) for name, directory in directories),
    ]
    for place, each in enumerate(found):
        if _NAME.fullmatch(each.name) is None:
            expected = "letters, digits and ._+-"
            raise OptionError(f"model: found the name {each.name!r}, expected {expected}")
        # Some file systems hold names that differ in capitals for the same.
        if any(each.name.lower() == other.name.lower() for other in found[:place]):
            raise OptionError(f"model: found {each.name} twice, expected different names")
        if each.source is None and not each.directory.is_dir():
            found_at = f"no directory {each.directory}"
            raise OptionError(f"model {each.name}: found {found_at}, expected a model's")
    return found


def _reference(source: str, models: Path) -> Candidate:
    if Path(source).is_dir():
        return Candidate(REFERENCE, Path(source))
    return Candidate(REFERENCE, models / REFERENCE, source, REFERENCE_ARGUMENTS)


def _checked(reference: str) -> str:
    """A reference that is no slip of the pen, for it is served first and all else needs it."""
    is_known = Path(reference).exists() or reference == _PACKAGED or _HUB_ID.fullmatch(reference)
    if not is_known:
        expected = f"a directory, a GGUF file, a hub id, or {_PACKAGED}"
        raise OptionError(f"reference: found nothing at {reference}, expected {expected}")
    return reference


def make(candidate: Candidate, log: Path) -> bool:
    """Convert a candidate if that is not done yet; returns whether something had to be done.

    Raises:
        ProgramError: The conversion fails, or the directory has another.
        ResultFileError: What is converted cannot be noted.
    """
    if candidate.source is None:
        return False
    asked = {"source": candidate.source, "arguments": [*candidate.arguments]}
    note = candidate.directory.with_name(f"{candidate.name}.json")
    if candidate.directory.is_dir():
        found = _noted(note)
        if found != asked:
            raise ProgramError(
                f"{candidate.directory}: found converted with {_shown(found)}, "
                f"expected {_shown(asked)}; delete it, or take another --work"
            )
        return False
    write_document(asked, note)
    run_converter(candidate.source, candidate.directory, candidate.arguments, log)
    return True


def _noted(note: Path) -> object:
    try:
        return json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    except (OSError, ValueError, RecursionError) as error:
        raise ResultFileError(f"{note}: found no JSON ({error}), delete it") from error


def _shown(asked: object) -> str:
    return "nobody knows what" if asked is None else json.dumps(asked)
