"""SmolLM2, converted and served, and what `jang-eval` finds of it."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from commands import JANG_QUANT, SOURCE, once, run

PROFILE: Final = "UNIFORM_4"


def convert(work: Path) -> Path:
    """SmolLM2 with 4 bits everywhere, round to nearest; made if it is not there."""
    command = (*JANG_QUANT, "convert", SOURCE)
    return once(work / PROFILE, lambda out: run([*command, str(out), "--profile", PROFILE]))


@contextmanager
def served(directory: Path) -> Generator[str]:
    """The address of a server that runs as long as the block."""
    command = [_program("jang-runtime"), "serve", str(directory), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[2]
        finally:
            server.terminate()


def judge(task: str, address: str, *options: str) -> dict[str, Any]:
    """The result of a task of `jang-eval`."""
    return json.loads(run([_program("jang-eval"), task, "--target", address, "--json", *options]))


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
