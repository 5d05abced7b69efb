"""The fuzzer, for a while, and the cases that once broke something."""

import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).with_name("fuzz.py")
CORPUS = Path(__file__).with_name("corpus")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In processes of its own, for a case may end one, or make it wait for ever."""
    command = [sys.executable, str(FUZZER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_thousands_of_damaged_directories_are_read_or_refused_in_one_line() -> None:
    ended = run("--cases", "4000", "--seed", "0", "--processes", "2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " 0 failed" in ended.stdout


def test_what_once_broke_something_breaks_nothing_now() -> None:
    ended = run("--replay", str(CORPUS))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(list(CORPUS.glob('*.json')))} cases, 0 failed" in ended.stdout
