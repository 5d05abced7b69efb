"""A mutation fuzzer: a directory, however damaged, is read or refused in one line, and that is all.

    uv run python packages/jang-format/tests/fuzz.py --cases 100000 --seed 0 [--keep DIR]
    uv run python packages/jang-format/tests/fuzz.py --replay packages/jang-format/tests/corpus

A case is a sound directory and a few edits, drawn from the seed and the number of the case. One
that fails is reduced and kept as JSON, in the form of the files in `corpus`: what once broke
something stays there under a name that says what.
"""

import argparse
import contextlib
import faulthandler
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any, Final, TypeAlias

from damage import BASES, Edit, Files, apply, put, read_base
from draws import draw_edits

from jang_format import (
    DIGESTS_FILE,
    DirectoryError,
    JangFormatError,
    dequantize,
    read_directory,
    summarize,
    validate,
)
from jang_format._digests import read_digests
from jang_format._errors import raise_first

LONGEST_MESSAGE: Final = 1000
LONGEST_SECONDS: Final = 2.0
HANG_SECONDS: Final = 20
MOST_BYTES: Final = 4 << 30


class Hang(BaseException):
    """A case takes so long that it may never end; readers must not catch that."""


class Arena:
    """A directory that takes the form of one case after the other, and what is beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "model"
        self.outside = root / "outside"
        self.bases = read_bases(root)
        self.directory.mkdir()
        self.outside.mkdir()
        for files in self.bases.values():
            for name, content in files.items():
                assert isinstance(content, bytes)
                (self.outside / name).write_bytes(content)
        self._present: Files = {}
        self._opened: list[str] = []
        # It cannot be taken away again, so it is told by the list whether to look.
        self._watching = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
            self._opened.append(os.path.realpath(os.fspath(arguments[0])))

    def put(self, files: Files) -> None:
        """Make the directory hold these files, and nothing else."""
        for name in self._present.keys() - files.keys():
            self._remove(name)
        for name, content in files.items():
            if self._present.get(name) == content:
                continue
            if name in self._present:
                self._remove(name)
            put(self.directory / name, content, self.outside)
            self._present[name] = content

    def _remove(self, name: str) -> None:
        path = self.directory / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        del self._present[name]

    def run(self, base: str, edits: Sequence[Edit]) -> tuple[str | None, bool]:
        """What is wrong with how a case is read, None if nothing; and whether it was refused."""
        self.put(apply(self.bases[base], edits))
        self._opened.clear()
        self._watching = True
        # Of the processor, so that a busy machine fails nothing.
        start = time.process_time()
        errors: list[Exception] = []
        signal.alarm(HANG_SECONDS)
        try:
            errors, answers = read_everything(self.directory)
            failures = [fault for error in (*errors, *answers) for fault in faults_of(error)]
            failures += validation_faults(self.directory, bool(errors))
        except Hang:
            failures = [f"nothing after {HANG_SECONDS} s"]
        finally:
            signal.alarm(0)
            self._watching = False
        seconds = time.process_time() - start
        if seconds > LONGEST_SECONDS:
            failures.append(f"took {seconds:.1f} s")
        strangers = {
            path
            for path in self._opened
            if path.startswith(f"{self.root}/") and not path.startswith(f"{self.directory}/")
        }
        failures += [f"opened {path}" for path in sorted(strangers)]
        return (failures[0] if failures else None), bool(errors)


def read_everything(directory: Path) -> tuple[list[Exception], list[Exception]]:
    """Call the whole reading surface.

    Returns:
        Every exception that comes out of it, and those that answer to what is not there.
    """
    errors: list[Exception] = []
    answers: list[Exception] = []

    def attempt(read: Callable[[], object], caught: list[Exception] = errors) -> Any:
        try:
            return read()
        # Whatever comes out is the very thing that is looked for.
        except Exception as error:  # noqa: BLE001
            caught.append(error)
            return None

    if os.path.lexists(directory / DIGESTS_FILE):
        attempt(lambda: read_digests(directory, raise_first))
    opened = attempt(lambda: read_directory(directory))
    if opened is None:
        return errors, answers
    for tensor in opened.tensors.values():
        attempt(lambda tensor=tensor: tensor.map().tobytes())
    paths = opened.quantized_paths()
    for path in paths:
        attempt(lambda path=path: dequantize(opened.quantized(path)))
    for path in {name.rpartition(".")[0] for name in opened.tensors}.difference(paths):
        attempt(lambda path=path: opened.quantized(path), answers)
    attempt(lambda: json.dumps(summarize(opened).as_dict()))
    return errors, answers


def faults_of(error: Exception) -> Iterator[str]:
    """What an error that came out has to be and is not."""
    if not isinstance(error, JangFormatError):
        yield f"{type(error).__name__}: {error}"
        return
    yield from _odd_texts(str(error))
    if isinstance(error, DirectoryError):
        yield from _odd_texts(error.file, error.field, error.found, error.expected)


def validation_faults(directory: Path, refused: bool) -> list[str]:
    """What a validation has to be and is not, for a directory that was refused, or was not."""
    try:
        validation = validate(directory)
    # Whatever comes out is the very thing that is looked for.
    except Exception as error:  # noqa: BLE001
        return [f"validate: {type(error).__name__}: {error}"]
    faults = [
        fault
        for problem in validation.problems
        for fault in _odd_texts(problem.file, problem.field, problem.found, problem.expected)
    ]
    if refused and validation.valid:
        faults.append("validate: valid, but it cannot be read")
    return faults


def _odd_texts(*texts: str) -> Iterator[str]:
    for text in texts:
        if not text.isprintable() or len(text) >= LONGEST_MESSAGE:
            yield f"message {text!r}"


def read_bases(work: Path) -> dict[str, Files]:
    """The files of all sound directories; `work` is written to."""
    return {name: read_base(name, work) for name in BASES}


def draw_case(bases: Mapping[str, Files], seed: int, number: int) -> tuple[str, list[Edit]]:
    """The case of a number: the name of a sound directory, and edits."""
    generator = random.Random(f"{seed} {number}")
    base = generator.choice(list(BASES))
    return base, draw_edits(generator, bases[base])


def reduce_case(arena: Arena, base: str, edits: list[Edit]) -> list[Edit]:
    """The edits without those that the failure does not need."""
    for edit in list(edits):
        fewer = [other for other in edits if other is not edit]
        if arena.run(base, fewer)[0] is not None:
            edits = fewer
    return edits


def prepare() -> None:
    """Warnings, hangs and large allocations become exceptions, and crashes say where."""
    warnings.simplefilter("error")
    faulthandler.enable()
    # Not every system has this limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, resource.RLIM_INFINITY))

    def stop(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)


def open_arena(root: Path) -> Arena:
    """An arena that has seen every sound directory, so that all modules are imported."""
    arena = Arena(root)
    for base in BASES:
        failure, refused = arena.run(base, [])
        if failure is not None or refused:
            raise RuntimeError(f"{base}: not sound ({failure})")
    return arena


Results: TypeAlias = "Queue[tuple[int, str, Any]]"


def work(root: Path, seed: int, numbers: range, current: Any, place: int, results: Results) -> None:
    """Run cases in a process of its own: a crash then ends this process, and is seen."""
    prepare()
    root.mkdir()
    arena = open_arena(root)
    refusals = 0
    for number in numbers:
        current[place] = number
        base, edits = draw_case(arena.bases, seed, number)
        failure, refused = arena.run(base, edits)
        refusals += refused
        if failure is not None:
            reduced = reduce_case(arena, base, edits)
            case = {"broke": arena.run(base, reduced)[0], "base": base, "edits": reduced}
            results.put((number, failure, case))
    results.put((-1, "", refusals))


class Report:
    """Counts, prints and keeps what fails."""

    def __init__(self, seed: int, keep: Path | None) -> None:
        self.seed = seed
        self.keep = keep
        self.failed = 0
        self._known = Counter[str]()

    def add(self, number: int, failure: str, case: Mapping[str, Any]) -> None:
        """Note a failing case; of those that fail alike the first three are enough."""
        self.failed += 1
        self._known[failure] += 1
        if self._known[failure] > 3:
            return
        print(f"case {number}: {failure}\n  {json.dumps(case)[:500]}", flush=True)
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            text = json.dumps(case, indent=2)
            (self.keep / f"{self.seed}-{number}.json").write_text(f"{text}\n")


def fuzz(numbers: range, seed: int, keep: Path | None, processes: int) -> int:
    """Run the cases of a seed, print what fails; how many failed."""
    context = multiprocessing.get_context("spawn")
    results: Results = context.Queue()
    current = context.RawArray("q", processes)
    report = Report(seed, keep)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jang-fuzz-") as temporary:
        root = Path(temporary).resolve()
        workers = [
            context.Process(
                target=work, args=(root / str(n), seed, numbers[n::processes], current, n, results)
            )
            for n in range(processes)
        ]
        for worker in workers:
            worker.start()
        refusals = collect(workers, current, results, report)
        crashes = {n: worker.exitcode for n, worker in enumerate(workers) if worker.exitcode}
        for worker in workers:
            worker.terminate()
            worker.join()
        for n, code in crashes.items():
            base, edits = draw_case(read_bases(root), seed, current[n])
            crash = f"the process ended with {code}"
            report.add(current[n], crash, {"broke": crash, "base": base, "edits": edits})
    seconds = time.monotonic() - start
    print(
        f"{len(numbers)} cases of seed {seed} in {seconds:.1f} s, {len(numbers) / seconds:.0f} a "
        f"second: {refusals} refused, {report.failed} failed"
    )
    return report.failed


def collect(workers: Sequence[BaseProcess], current: Any, results: Results, report: Report) -> int:
    """Wait until all processes are done or one has crashed; how many cases were refused."""
    refusals, running = 0, len(workers)
    start = printed = time.monotonic()
    while running:
        try:
            number, failure, case = results.get(timeout=1)
        except Empty:
            if any(worker.exitcode for worker in workers):
                break
        else:
            if number >= 0:
                report.add(number, failure, case)
            else:
                refusals += case
                running -= 1
        if time.monotonic() - printed > 10:
            printed = time.monotonic()
            print(f"at case {max(current)}, {printed - start:.0f} s", flush=True)
    return refusals


def replay(corpus: Path) -> int:
    """Run the kept cases, print what fails; how many failed."""
    prepare()
    failed = 0
    files = sorted(corpus.glob("*.json"))
    with tempfile.TemporaryDirectory(prefix="jang-fuzz-") as temporary:
        arena = open_arena(Path(temporary).resolve())
        for file in files:
            print(f"{file.name}: ", end="", flush=True)
            case = json.loads(file.read_text())
            failure, _ = arena.run(case["base"], case["edits"])
            failed += failure is not None
            print(failure or "fine", flush=True)
    print(f"{len(files)} cases, {failed} failed")
    return failed


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where failing cases go")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--replay", type=Path, help="run the cases in a directory instead")
    options = parser.parse_args()
    if options.replay is not None:
        return 1 if replay(options.replay) else 0
    numbers = range(options.first, options.first + options.cases)
    return 1 if fuzz(numbers, options.seed, options.keep, options.processes) else 0


if __name__ == "__main__":
    sys.exit(main())
