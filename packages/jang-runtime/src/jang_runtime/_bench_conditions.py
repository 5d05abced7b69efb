"""Where a measurement was taken."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import jang_runtime

_PACKAGES: Final = ("mlx", "mlx-lm", "numpy")


@dataclass(frozen=True)
class Conditions:
    """Where a measurement was taken.

    Attributes:
        processor: Its name.
        cores: On which this process may run.
        threads: That the programs were told to use; None if they chose.
        system: Operating system and machine.
        python: Version.
        versions: Of packages, by name.
        facts: What the first program says of itself: backend, device, BLAS, kernels.
    """

    processor: str
    cores: int
    threads: int | None
    system: str
    python: str
    versions: Mapping[str, str]
    facts: Mapping[str, str]


def conditions(facts: Mapping[str, str], threads: int | None) -> Conditions:
    """The conditions of this machine, with what a program said of itself."""
    return Conditions(
        processor=processor(),
        cores=cores(),
        threads=threads,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        # Ours may run from a checkout, without being installed.
        versions={"jang-runtime": jang_runtime.__version__}
        | {name: version(name) for name in _PACKAGES},
        facts=facts,
    )


def processor() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(names, platform.machine())


def cores() -> int:
    """How many cores this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
