"""The other programs of the protocol: one that converts, one that serves."""

import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from jang_eval._errors import ProgramError, ResultFileError

_LISTENING: Final = re.compile(r"listening on (\S+:[0-9]+)\b")
# A server that has not ended so long after SIGTERM is killed.
_DRAIN_SECONDS: Final = 2
_END_SECONDS: Final = 15.0
_SHOWN_CHARACTERS: Final = 300


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        address: `HOST:PORT`.
        process: It.
        log: What it writes on stderr.
    """

    address: str
    process: "subprocess.Popen[str]"
    log: Path

    def check(self) -> None:
        """Raise ProgramError if it has ended."""
        status = self.process.poll()
        if status is not None:
            raise ProgramError(f"the server ended with status {status}: {last_words(self.log)}")


def find_program(name: str) -> str:
    """Where a command of JANG is: beside this Python, or on the path.

    Raises:
        ProgramError: It is in neither place.
    """
    # A virtual environment need not be activated for its programs to be run.
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise ProgramError(
            f"{name}: found no such command, expected it installed (pip install {name})"
        )
    return found


def run_converter(source: str, out: Path, arguments: Sequence[str], log: Path) -> None:
    """Convert a model with `jang-quant convert`; what was broken off is gone on with.

    Raises:
        ProgramError: It is not there, or fails.
        ResultFileError: The log cannot be written.
    """
    command = [find_program("jang-quant"), "convert", source, str(out), *arguments]
    with _opened(log) as output, _started(command, output, output) as process:
        status = process.wait()
    if status:
        raise ProgramError(f"jang-quant convert ended with status {status}: {last_words(log)}")


@contextmanager
def served(directory: Path, threads: int | None, log: Path) -> Generator[Served]:
    """Serve a model with `jang-runtime serve` at a free port of this machine only.

    Raises:
        ProgramError: It is not there, or ends before it serves.
        ResultFileError: The log cannot be written.
    """
    command = [find_program("jang-runtime"), "serve", str(directory), "--listen", "127.0.0.1:0"]
    command += ["--drain-seconds", str(_DRAIN_SECONDS)]
    command += [] if threads is None else ["--threads", str(threads)]
    with _opened(log) as errors, _started(command, subprocess.PIPE, errors) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        listening = _LISTENING.match(line)
        if listening is None:
            process.terminate()
            raise ProgramError(
                f"jang-runtime serve ended with status {process.wait()}: {last_words(log)}"
            )
        yield Served(listening[1], process, log)


def last_words(log: Path) -> str:
    """The last error of a log, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or [line for line in lines if line] or ["it said nothing"])[-1]
    return f"{said.removeprefix('error: ')[:_SHOWN_CHARACTERS]} ({log})"


def _opened(log: Path) -> TextIO:
    try:
        return log.open("w")
    except OSError as error:
        raise ResultFileError(f"{log}: cannot be written: {error.strerror}") from error


@contextmanager
def _started(
    command: Sequence[str], stdout: int | TextIO, stderr: TextIO
) -> Generator["subprocess.Popen[str]"]:
    """A program that ends when this does; a Ctrl-C at the terminal does not reach it by itself."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
            finally:
                # It is too slow, or a second signal ended the wait; nothing where it has ended.
                process.kill()
                process.wait()
