"""Our conversions, by the command line that users have."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from commands import JANG_QUANT, SOURCE, once, run, say

METHOD: Final = "gptq"
_DOCUMENT: Final = "conversion.json"
# What says how many threads a process takes: Numba's, and those of each BLAS that numpy may have.
_THREADS: Final = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


@dataclass(frozen=True)
class Conversion:
    """What is asked of jang-quant.

    Attributes:
        name: Its name in the work directory.
        budget: Such as `("--bits", "3.5")`.
        calibration: A file that `jang-quant calibrate` wrote.
    """

    name: str
    budget: tuple[str, str]
    calibration: Path


def convert(wanted: Sequence[Conversion], models: Path, jobs: int) -> None:
    """Make what is not there yet, so many conversions at a time."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        for running in [pool.submit(_convert, each, models, threads) for each in wanted]:
            running.result()


def _convert(wanted: Conversion, models: Path, threads: int) -> None:
    def make(part: Path) -> None:
        say(f"converting {wanted.name}")
        command = [*JANG_QUANT, "convert", SOURCE, str(part), *wanted.budget, "--method", METHOD]
        command += ["--calibration", str(wanted.calibration), "--json"]
        printed = run(command, {**os.environ, **dict.fromkeys(_THREADS, str(threads))})
        (part / _DOCUMENT).write_text(printed)

    once(models / wanted.name, make)


def damage_of(directory: Path) -> float | None:
    """The divergence that was predicted for a directory; None for those of other programs."""
    file = directory / _DOCUMENT
    return json.loads(file.read_text())["damage"] if file.exists() else None


def calibration_of(directory: Path) -> dict[str, Any] | None:
    """What the manifest says of the text; None for directories of other programs."""
    if not (directory / _DOCUMENT).exists():
        return None
    manifest = json.loads((directory / "jang_config.json").read_text())
    return manifest["quantization"]["calibration"]
