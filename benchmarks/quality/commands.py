"""Programs that are run, and what they leave: whole, or not at all."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Final

# The name under which jang-quant knows the model.
SOURCE: Final = "smollm2"
# As a user's `jang-quant`, whether or not its directory is on the PATH.
JANG_QUANT: Final = (sys.executable, "-m", "jang_quant.cli")


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a program; returns what it printed.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=cwd
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{said}")
    return done.stdout


def once(out: Path, make: Callable[[Path], object]) -> Path:
    """Make a file or directory unless it is there; a run that is broken off leaves none."""
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"part-{out.name}")
    if part.is_dir():
        rmtree(part)
    part.unlink(missing_ok=True)
    make(part)
    part.rename(out)
    return out


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
