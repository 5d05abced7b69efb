"""The page of results: one line for each model and program."""

import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from conversion.models import Model
from conversion.programs import Program
from jang_runtime._bench_conditions import processor

# The bound that conversions of ours are held to.
_MODULES_IN_MEMORY: Final = 3
_BESIDE_MODULES: Final = 500_000_000
_FLOAT32_BYTES: Final = 4

_COLUMNS: Final = (
    "model",
    "program",
    "median",
    "fastest to slowest",
    "MB/s of source",
    "processor",
    "peak, files mapped too",
    "peak, anonymous",
    "bound",
    "output",
)
EXPLANATION: Final = """
Every run is a process of its own, the programs in turn, the source in the page cache, byte code and
compiled kernels cached by a run before. Start of Python and imports included. Processor seconds
are user and system together. Peak with files: `ru_maxrss` of the process, in which mapped pages of
the source count, though the system can take them back. Anonymous: `RssAnon`, polled every 10 ms.
Bound: 3 times the largest module in float32, and 500 MB. jang-quant writes SHA-256 digests, the
error of every module, and waits for the disk; the others do not.
"""


@dataclass(frozen=True)
class Run:
    """What one conversion took.

    Attributes:
        seconds: By the clock.
        processor_seconds: User and system.
        resident: Peak of resident memory, in bytes.
        anonymous: The same without mapped files; 0 where the system does not say.
        output: Bytes that were written.
        status: Exit status.
        killed: Whether it was stopped at the limit.
    """

    seconds: float
    processor_seconds: float
    resident: int
    anonymous: int
    output: int
    status: int
    killed: bool


@dataclass(frozen=True)
class Row:
    """All runs of a program on a model, at least one."""

    model: Model
    program: Program
    runs: tuple[Run, ...]

    def cells(self) -> Iterator[str]:
        """The cells of its line."""
        seconds = [run.seconds for run in self.runs]
        median = statistics.median(seconds)
        yield self.model.name
        yield self.program.name + self._failure()
        if self._killed:
            yield f"not finished after {max(seconds):.0f} s"
            yield ""
            yield ""
        else:
            yield f"{median:.2f} s"
            yield f"{min(seconds):.2f} to {max(seconds):.2f} s"
            yield f"{self.model.nbytes / 1e6 / median:,.0f}"
        yield f"{statistics.median(run.processor_seconds for run in self.runs):.1f} s"
        anonymous = max(run.anonymous for run in self.runs)
        yield _megabytes(max(run.resident for run in self.runs))
        yield _megabytes(anonymous) if anonymous else "not known"
        yield self._bound(anonymous)
        yield _megabytes(self.runs[-1].output)

    @property
    def _killed(self) -> bool:
        return any(run.killed for run in self.runs)

    def _failure(self) -> str:
        failed = {run.status for run in self.runs if run.status and not run.killed}
        return f" (exit status {min(failed)})" if failed else ""

    def _bound(self, anonymous: int) -> str:
        if not self.program.ours or self._killed:
            return ""
        kept = "kept" if anonymous <= bound(self.model) else "**broken**"
        return f"{_megabytes(bound(self.model))}, {kept if anonymous else 'not known'}"


def bound(model: Model) -> int:
    """The most memory that a conversion of ours may take, in bytes."""
    return _MODULES_IN_MEMORY * model.largest_module * _FLOAT32_BYTES + _BESIDE_MODULES


def page(rows: Sequence[Row], models: Sequence[Model], command: str, commit: str) -> str:
    """The whole page."""
    alignments = ["---", "---", *["---:"] * (len(_COLUMNS) - 2)]
    runs = max(len(row.runs) for row in rows)
    lines = [
        "# Speed of conversion",
        "",
        "Written by",
        "",
        f"    {command}",
        "",
        *(f"- {m.name}: {m.what}; {m.nbytes / 1e6:,.0f} MB of random bfloat16." for m in models),
        "",
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}, mlx {version('mlx')} (0.31.2 for the published package), "
        f"numba {version('numba')}, numpy {version('numpy')}, commit {commit}. 4 bits in groups of "
        f"64: published JANG_4S (6 bits for attention and head) or uniform. At most {runs} runs.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"| {' | '.join(alignments)} |",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    return "\n".join(lines) + "\n" + EXPLANATION


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f} MB"
