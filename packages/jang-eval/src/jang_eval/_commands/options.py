"""Options that several commands have, each with one name, one meaning and one range."""

import math
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from jang_eval._errors import OptionError

DEFAULT_TIMEOUT: Final = 120.0
DEFAULT_IN_FLIGHT: Final = 4

TargetOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--target", metavar="HOST:PORT|unix:PATH", help="The JANG server (jang-runtime serve)."
    ),
]
DataOption: TypeAlias = Annotated[
    Path, typer.Option("--data", metavar="PATH|hub:ID", help="The data, as they are published.")
]
OutputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Also write the result as JSON; an interrupted run goes on where it was.",
    ),
]
InFlightOption: TypeAlias = Annotated[
    int, typer.Option("--in-flight", metavar="N", help="How many questions to ask at a time.")
]
TimeoutOption: TypeAlias = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for one answer.")
]
ReferenceOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--reference",
        metavar="HOST:PORT|unix:PATH|FILE",
        help="A JANG server, or a file that `reference` wrote.",
    ),
]
SeedOption: TypeAlias = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Of everything that is drawn.")
]
QuestionsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        metavar="FILE",
        help="Questions of your own (TOML, see the README); default: six.",
    ),
]
CommitOption: TypeAlias = Annotated[
    str,
    typer.Option("--commit", metavar="ID", help="Of the code that was judged, for the pages."),
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON instead of a table.")
]


def bytes_of(max_size: float) -> int:
    """A `--max-size` in bytes.

    Raises:
        OptionError: It is no size.
    """
    if not 0 < max_size < math.inf:
        raise OptionError(f"max_size: found {max_size:g}, expected GB above 0")
    return round(max_size * 1e9)


def is_reference_file(reference: str) -> bool:
    """Whether a `--reference` names a file; else it is the address of a server."""
    return Path(reference).exists() or ":" not in reference
