"""Kills conversions at random moments and lets the same command go on, again and again.

    uv run python packages/jang-quant/tests/kills.py SOURCE --kills 30

converts SOURCE by gptq under a budget once unbroken, and then 30 times with one kill -9 each; all
results have to be the same to the byte.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Ways that leave everything behind: hidden states, moments, gradients, options, tensors.
OPTIONS = ("--bits", "4", "--method", "gptq")
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "away", "again")


@dataclass(frozen=True)
class Command:
    """A conversion of a source, calibrated with a text."""

    source: str
    text: Path

    def start(self, out: Path) -> "subprocess.Popen[bytes]":
        """Begin it, and wait until it has a folder for its work."""
        command = [sys.executable, "-m", "jang_quant.cli", "convert", self.source, str(out)]
        process = subprocess.Popen(
            [*command, *OPTIONS, "--calibration", str(self.text)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while not work_of(out).exists() and process.poll() is None:
            time.sleep(0.002)
        return process

    def finish(self, out: Path) -> float:
        """Run it to its end; returns the seconds since it had its folder."""
        process = self.start(out)
        began = time.monotonic()
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
        return time.monotonic() - began

    def kill(self, out: Path, seconds: float) -> bool:
        """Kill it so long after it had its folder; returns whether it was still at work."""
        process = self.start(out)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL


def work_of(out: Path) -> Path:
    """Where an unfinished conversion is kept."""
    return out.with_name(f".{out.name}.partial")


def write_text(file: Path) -> Path:
    """A text of fifteen hundred words."""
    file.write_text(" ".join(random.Random(0).choices(WORDS, k=1_500)))
    return file


def content(directory: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def main() -> None:
    """Kill and go on, as often as asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = Command(asked.source, write_text(folder / "text.txt"))
        seconds = command.finish(folder / "unbroken")
        expected = content(folder / "unbroken")
        print(f"unbroken: {seconds:.1f} s")
        for number in range(1, asked.kills + 1):
            out = folder / "killed"
            after = chance.uniform(0, seconds)
            killed = command.kill(out, after)
            left = sorted(path.name for path in work_of(out).glob("**/*"))[-3:]
            if killed and not out.exists():
                command.finish(out)
            assert content(out) == expected, f"kill {number} after {after:.2f} s"
            print(f"{number}: killed {killed} after {after:.2f} s, with {left}; the same")
            shutil.rmtree(out)
            shutil.rmtree(work_of(out), ignore_errors=True)


if __name__ == "__main__":
    main()
