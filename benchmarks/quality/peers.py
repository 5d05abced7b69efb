"""The models of other programs: mlx-lm's recipes and GPTQ, and the published package's profiles.

They convert Hugging Face directories; `write_source` makes one of our source.
"""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
from commands import once, run, say
from models import source_weights

from jang_quant import Source

PUBLISHED: Final = ("jang==2.5.50", "mlx[cpu]==0.32.4", "mlx-lm==0.32.2", "transformers==5.23.0")
_MLX_LM: Final = (sys.executable, "-m", "mlx_lm")
_MLX_LM_GPTQ: Final = Path(__file__).with_name("mlx_lm_gptq.py")
_GROUP_SIZE: Final = 64


@dataclass(frozen=True)
class Workshop:
    """What other programs are given.

    Attributes:
        source: The model as a Hugging Face directory.
        calibration: A file that `jang-quant calibrate` wrote.
        published: Command line of the published package.
    """

    source: Path
    calibration: Path
    published: Sequence[str]


@dataclass(frozen=True)
class Peer:
    """A model that another program makes.

    Attributes:
        name: Its name in the work directory.
        label: For people.
        make: Makes it in a directory.
    """

    name: str
    label: str
    make: Callable[[Workshop, Path], None]

    @property
    def ours(self) -> str:
        """Name of our model in the same bytes."""
        return f"ours-beside-{self.name}"


def uniform(bits: int) -> Peer:
    """mx.quantize with the same bits for all modules, as `mlx_lm.convert` applies it."""
    make = partial(_mlx_lm_convert, ["--q-bits", str(bits)])
    return Peer(f"uniform-{bits}", f"mx.quantize, {bits} bits", make)


def recipe(name: str) -> Peer:
    """One of the mixtures of two widths that `mlx_lm.convert` has."""
    return Peer(name, f"mlx-lm {name}", partial(_mlx_lm_convert, ["--quant-predicate", name]))


def mlx_lm_gptq(bits: int) -> Peer:
    """mlx-lm's GPTQ, whose only widths are 2, 4 and 8."""
    return Peer(f"mlx-lm-gptq-{bits}", f"mlx-lm gptq, {bits} bits", partial(_mlx_lm_gptq, bits))


def published(profile: str) -> Peer:
    """A profile of the published package."""
    return Peer(profile, f"jang 2.5.50 {profile}", partial(_published, profile))


def _mlx_lm_convert(options: Sequence[str], workshop: Workshop, out: Path) -> None:
    # config.json says float16, so that is what it takes weights, scales and biases for.
    command = [*_MLX_LM, "convert", "--hf-path", str(workshop.source), "--mlx-path", str(out)]
    run([*command, "-q", "--q-group-size", str(_GROUP_SIZE), *options])


def _mlx_lm_gptq(bits: int, workshop: Workshop, out: Path) -> None:
    given = [str(workshop.source), str(workshop.calibration), str(bits), str(out)]
    run([sys.executable, str(_MLX_LM_GPTQ), *given])


def _published(profile: str, workshop: Workshop, out: Path) -> None:
    run([*workshop.published, "convert", str(workshop.source), "-o", str(out), "-p", profile])


def write_source(source: Source, out: Path) -> Path:
    """The source as a Hugging Face directory, in float32, which holds its values exactly."""

    def make(part: Path) -> None:
        part.mkdir()
        file = part / "model.safetensors"
        save = cast(Any, mx).save_safetensors
        save(str(file), dict(source_weights(source)), {"format": "pt"})
        (part / "config.json").write_text(json.dumps(dict(source.config), indent=2))
        for name, content in source.side_files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            (part / name).write_bytes(data)

    return once(out, make)


def published_program(given: str | None, work: Path) -> list[str]:
    """The command line of the published package, installed below `work` unless one is given."""
    if given is not None:
        return shlex.split(given)
    environment = (work / "published").resolve()
    program = environment / "bin" / "jang"
    if not program.exists():
        environment.mkdir(parents=True, exist_ok=True)
        # Not in this checkout, whose pyproject.toml would bring its constraints along.
        make = ["uv", "venv", "--no-project", "--clear", "--python", sys.executable, "."]
        run(make, cwd=environment)
        python = str(environment / "bin" / "python")
        run(["uv", "pip", "install", "--python", python, *PUBLISHED], cwd=environment)
    return [str(program)]


def make_all(wanted: Sequence[Peer], workshop: Workshop, models: Path, jobs: int) -> None:
    """Make what is not there yet, so many models at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        for running in [pool.submit(_made, each, workshop, models) for each in wanted]:
            running.result()


def _made(peer: Peer, workshop: Workshop, models: Path) -> None:
    def make(part: Path) -> None:
        say(f"making {peer.label}")
        peer.make(workshop, part)

    once(models / peer.name, make)
