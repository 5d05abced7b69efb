"""Programs of others give our directories the logits that our runtime gives them.

    uv run pytest -m interop tests/interop

Not run by default: it installs each program with its own MLX, some hundred megabytes from PyPI.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import write_tiny_source
from jang_format import BIT_WIDTHS, GROUP_SIZES
from jang_quant import convert, find_profile, open_source, plan_source

pytestmark = pytest.mark.interop

SCRIPT: Final = Path(__file__).with_name("logits.py")


@dataclass(frozen=True)
class Program:
    """A loader of logits.py, and what to install for it."""

    loader: str
    mlx: str
    packages: tuple[str, ...]


# transformers is pinned because the programs take any later one, and it changes often; the old
# mlx-lm gets those of its time.
PROGRAMS: Final[Mapping[str, Program]] = {
    "mlx-lm 0.32.2": Program("mlx_lm", "0.32.4", ("mlx-lm==0.32.2", "transformers==5.23.0")),
    "mlx-lm 0.31.3": Program("mlx_lm", "0.31.2", ("mlx-lm==0.31.3", "transformers==5.7.0")),
    "jang 2.5.50": Program(
        "jang_tools", "0.31.2", ("jang==2.5.50", "mlx-lm==0.31.3", "transformers==5.7.0")
    ),
}


@dataclass(frozen=True)
class Installed:
    """A program, and the Python of the environment that has it."""

    program: Program
    python: Path


@pytest.fixture(scope="session", params=PROGRAMS)
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """One environment for each program, for all tests."""
    program = PROGRAMS[request.param]
    environment = tmp_path_factory.mktemp("environment")
    python = environment / "bin" / "python"
    # Not in this checkout, whose pyproject.toml would bring its constraints along.
    run("uv", "venv", "--no-project", "--python", sys.executable, "--clear", ".", cwd=environment)
    mlx = f"mlx[cpu]=={program.mlx}"
    run("uv", "pip", "install", "--python", python, mlx, *program.packages, cwd=environment)
    return Installed(program, python)


@pytest.fixture(scope="session")
def every_format(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama with a layer for each bit width, and groups of each size in every layer."""
    directory = tmp_path_factory.mktemp("every_format")
    # Modules have 128, 192 (down_proj) or 160 (o_proj) inputs; groups of 128, 64 and 32 fit.
    write_tiny_source(
        directory / "source",
        num_hidden_layers=len(BIT_WIDTHS),
        intermediate_size=192,
        head_dim=40,
    )
    source = open_source(str(directory / "source"))
    plan = plan_source(source, find_profile("JANG_4M"), max(GROUP_SIZES))
    modules = tuple(
        replace(module, bits=BIT_WIDTHS[int(layer[1])])
        if (layer := re.match(r"model\.layers\.(\d+)\.", module.path))
        else module
        for module in plan.modules
    )
    convert(source, directory / "converted", replace(plan, modules=modules))
    return directory / "converted"


@pytest.fixture(scope="session")
def smollm2_logits(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    return our_logits(smollm2, tmp_path_factory.mktemp("logits"))


@pytest.fixture(scope="session")
def every_format_logits(
    every_format: Path, tmp_path_factory: pytest.TempPathFactory
) -> NDArray[np.float32]:
    return our_logits(every_format, tmp_path_factory.mktemp("logits"))


def run(*command: str | Path, cwd: Path) -> None:
    # Ours too with the BLAS of MLX's wheel, which is what the others have.
    environment = {**os.environ, "JANG_BLAS": "none"}
    ran = subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr


def logits(python: Path, loader: str, directory: Path, scratch: Path) -> NDArray[np.float32]:
    # Isolated (-I), so that a PYTHONPATH cannot bring in what the environment does not have.
    run(python, "-I", SCRIPT, loader, directory, scratch / "logits.npy", cwd=scratch)
    return np.load(scratch / "logits.npy")


def our_logits(directory: Path, scratch: Path) -> NDArray[np.float32]:
    return logits(Path(sys.executable), "jang_runtime", directory, scratch)


def assert_same_logits(
    installed: Installed, directory: Path, ours: NDArray[np.float32], scratch: Path
) -> None:
    """With our version of MLX to the last bit; another may sum in another order."""
    program = installed.program
    theirs = logits(installed.python, program.loader, directory, scratch)
    tolerance = 0 if program.mlx == version("mlx") else 1e-4
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance, equal_nan=False)


def test_other_programs_give_smollm2_the_logits_of_our_runtime(
    installed: Installed, smollm2: Path, smollm2_logits: NDArray[np.float32], tmp_path: Path
) -> None:
    assert_same_logits(installed, smollm2, smollm2_logits, tmp_path)


def test_other_programs_read_all_bit_widths_and_group_sizes_in_one_directory(
    installed: Installed,
    every_format: Path,
    every_format_logits: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    quantization = json.loads((every_format / "config.json").read_text())["quantization"]
    modules = [entry for entry in quantization.values() if isinstance(entry, dict)]
    formats = {(module["bits"], module["group_size"]) for module in modules}
    assert formats == set(product(BIT_WIDTHS, GROUP_SIZES))
    assert_same_logits(installed, every_format, every_format_logits, tmp_path)
