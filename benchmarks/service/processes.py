"""Server processes: ours, with its log in a file and its metrics, and what is read of them."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LINE: Final = re.compile(r"^(?P<name>[a-z_]+(?:\{[^}]*\})?) (?P<value>\S+)$", re.MULTILINE)
_START_SECONDS: Final = 120.0
_END_SECONDS: Final = 30.0


@dataclass(frozen=True)
class RunningServer:
    """A server process of ours.

    Attributes:
        address: Where it answers.
        metrics_address: Where its metrics are.
        log: File with its log, in JSON lines, and whatever else it says on stderr.
        process: The process.
    """

    address: str
    metrics_address: str
    log: Path
    process: "subprocess.Popen[str]"

    def metrics(self) -> Mapping[str, float]:
        """Every metric by its name, labels included."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=30) as page:
            text = page.read().decode()
        return {found["name"]: float(found["value"]) for found in _LINE.finditer(text)}

    def end(self) -> int | None:
        """Ask it to end, as an administrator would; its exit status, None if it goes on."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def our_server(model: Path, log: Path, options: Sequence[str] = ()) -> Generator[RunningServer]:
    """`jang-runtime serve` on loopback, until the block ends.

    Args:
        model: The model's directory.
        log: Where its log goes.
        options: More of its command line.
    """
    metrics_address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(model)]
    given = ["--listen", "127.0.0.1:0", "--metrics", metrics_address, "--log-format", "json"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*command, *given, *options], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise SystemExit(f"error: the server did not start; {log} says why")
            yield RunningServer(line.split()[2], metrics_address, log, process)
        finally:
            process.kill()


@contextmanager
def http_server(command: Sequence[str], port: int, log: Path) -> Generator[str]:
    """A program that serves HTTP on a port of loopback, until the block ends; yields its URL.

    Args:
        command: Its command line.
        port: Where it will answer.
        log: Where its output goes.
    """
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(f"{url}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"error: {command[0]} did not start; {log} says why")
                time.sleep(0.2)
            yield url
        finally:
            process.kill()


def free_port() -> int:
    """A port of loopback that nobody has at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
