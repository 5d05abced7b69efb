"""The programs that convert: ours, mlx-lm's, and the published package in its own environment."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

# As tests/interop installs it: with the MLX and the libraries of its time.
PUBLISHED: Final = ("mlx[cpu]==0.31.2", "jang==2.5.50", "mlx-lm==0.31.3", "transformers==5.7.0")
# What the published package makes of JANG_4S; ours takes its table, so that both write the same.
PROFILE: Final = "JANG_4S"


@dataclass(frozen=True)
class Program:
    """A way to convert.

    Attributes:
        name: For people.
        command: The command line for a source and an output.
        ours: Whether it is held to our bound on memory.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    ours: bool


def ours(method: str, calibration: str | None) -> Program:
    """Our conversion by a method; a calibration of None is the method's own choice."""
    more = [] if calibration is None else ["--calibration", calibration]

    def command(source: Path, out: Path) -> list[str]:
        chosen = ["--profile", PROFILE, "--profile-table", "published", "--method", method, *more]
        return [_beside_python("jang-quant"), "convert", str(source), str(out), *chosen]

    return Program(f"jang-quant {version('jang-quant')}, {method}", command, ours=True)


def mlx_lm() -> Program:
    """mlx-lm's conversion to 4 bits."""

    def command(source: Path, out: Path) -> list[str]:
        paths = ["--hf-path", str(source), "--mlx-path", str(out)]
        return [
            _beside_python("mlx_lm.convert"),
            *paths,
            *("-q", "--q-bits", "4", "--q-group-size", "64"),
        ]

    return Program(f"mlx_lm.convert {version('mlx-lm')}", command, ours=False)


def published(work: Path) -> Program:
    """The published package's conversion, installed below `work` unless it is there already."""
    environment = work / "published"
    program = environment / "bin" / "jang"
    if not program.exists():
        install(environment, PUBLISHED)

    def command(source: Path, out: Path) -> list[str]:
        return [str(program), "convert", str(source), "-o", str(out), "-p", PROFILE]

    return Program("jang convert 2.5.50, as published", command, ours=False)


def install(environment: Path, packages: Sequence[str]) -> None:
    """Make an environment with packages; options of `uv pip install` may stand among them."""
    environment.mkdir(parents=True, exist_ok=True)
    # Not in this checkout, whose pyproject.toml would bring its constraints along.
    make = ["uv", "venv", "--no-project", "--python", sys.executable, "--clear", "."]
    subprocess.run(make, check=True, cwd=environment)
    python = environment / "bin" / "python"
    install = ["uv", "pip", "install", "--python", str(python), *packages]
    subprocess.run(install, check=True, cwd=environment)


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).parent / name)
