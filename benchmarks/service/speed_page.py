"""The page about what gRPC costs."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import median, quantiles
from typing import Any, Final

from jang_runtime._bench_conditions import conditions
from jang_runtime._native import cpu_kernels_description
from service.watching import Speeds

_PACKAGES: Final = ("grpcio", "protobuf")
Taken = Mapping[str, Sequence[Speeds]]


@dataclass(frozen=True)
class Conduct:
    """What was measured: the times of each program, round by round.

    Attributes:
        alone: One stream, by the engine in process and through gRPC.
        together: Sixteen streams, the same.
        peer_alone: One stream, through gRPC and by mlx_lm.server.
        peer_together: Sixteen streams, the same.
        load_before: The machine's load averages before.
        load_after: And after.
    """

    alone: Taken
    together: Taken
    peer_alone: Taken
    peer_together: Taken
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]

    def as_json(self) -> dict[str, Any]:
        """All of it for a file."""
        return asdict(self)


def page(conduct: Conduct, command: str, options: argparse.Namespace, commit: str) -> str:
    """The whole page.

    Args:
        conduct: What was measured.
        command: What was typed.
        options: The command line.
        commit: Of this repository.
    """
    lines = [
        "# What gRPC costs",
        "",
        "Written by",
        "",
        f"    {command}",
        "",
        *_introduction(conduct, options, commit),
        "",
        "| tokens a second | the engine in process | through gRPC | of the engine's, by round |",
        "|---|---:|---:|---:|",
        *_rows("one stream", conduct.alone, "engine", "gRPC"),
        *_rows("16 streams", conduct.together, "engine", "gRPC"),
        "",
        _gain(conduct),
    ]
    if conduct.peer_alone:
        lines += [
            "",
            f"The same beside stock mlx_lm.server {version('mlx-lm')} over HTTP, on a copy of the "
            f"model with float32 scales and norms; {options.peer_tokens} tokens of each stream.",
            "",
            "| tokens a second | mlx_lm.server | through gRPC | times as many, by round |",
            "|---|---:|---:|---:|",
            *_rows("one stream", conduct.peer_alone, "mlx_lm.server", "gRPC"),
            *_rows("16 streams", conduct.peer_together, "mlx_lm.server", "gRPC"),
        ]
    return "\n".join(lines) + "\n" + _EXPLANATION


_EXPLANATION: Final = """
Each cell: the median, and the quartiles in parentheses. Speeds are those of whoever asked.
Decoding: tokens that came while all streams were running, from the first token of the last one to
the end of the first one. All: every token, from the request on, the prompts' time included.
Prompts are 16 random words, the same for all. The client runs on the same machine. Each program is
one process all the time, idle while another is measured; the order is turned around in every
round.
"""


def _introduction(conduct: Conduct, options: argparse.Namespace, commit: str) -> Iterator[str]:
    where = conditions({}, None)
    versions = {**where.versions, **{name: version(name) for name in _PACKAGES}}
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    yield (
        f"SmolLM2-135M-Instruct at 4 bits; {options.tokens} tokens of each stream, "
        f"{len(conduct.alone['gRPC'])} rounds of one stream, {len(conduct.together['gRPC'])} of 16."
    )
    yield ""
    yield (
        f"{where.processor}, {where.cores} cores, {where.system}, Python {where.python}, {named}, "
        f"{cpu_kernels_description()}, commit {commit}; load of the machine "
        f"{conduct.load_before[0]:.1f} before and {conduct.load_after[0]:.1f} after."
    )


def _rows(name: str, taken: Taken, first: str, second: str) -> Iterator[str]:
    """The two speeds of two programs, and what the second has of the first's."""
    decoding = {each: [speeds.decoding for speeds in taken[each]] for each in (first, second)}
    whole = {each: [speeds.whole for speeds in taken[each]] for each in (first, second)}
    for speed, rates in (("decoding", decoding), ("all", whole)):
        base, other = rates[first], rates[second]
        ratios = [after / before for before, after in zip(base, other, strict=True)]
        cells = f"{_spread(base, 1)} | {_spread(other, 1)} | {_spread(ratios, 3)}"
        yield f"| {name}, {speed} | {cells} |"


def _spread(values: Sequence[float], digits: int) -> str:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return f"{median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _gain(conduct: Conduct) -> str:
    decoding = {name: _times_one(conduct, name, "decoding") for name in conduct.alone}
    whole = {name: _times_one(conduct, name, "whole") for name in conduct.alone}
    return (
        f"16 streams through gRPC decode {decoding['gRPC']:.2f} times the tokens of one, by the "
        f"engine in process {decoding['engine']:.2f} times; with their prompts "
        f"{whole['gRPC']:.2f} and {whole['engine']:.2f} times."
    )


def _times_one(conduct: Conduct, name: str, speed: str) -> float:
    """How many times as fast sixteen streams are as one."""
    many, one = (
        [getattr(each, speed) for each in taken[name]]
        for taken in (conduct.together, conduct.alone)
    )
    return median(many) / median(one)
