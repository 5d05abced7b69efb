"""Measurements of a model's speed and memory, beside stock mlx-lm where that is asked for.

Every run is a process of its own, the programs in turn, so that neither keeps memory, threads or
warm caches from the other.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jang_format import MLX_LAYOUT, JangFormatError, ModelDirectory, read_directory, text_size
from jang_runtime._backend import detect_backend
from jang_runtime._bench_conditions import Conditions, conditions
from jang_runtime._bench_record import BenchRecord, Program, program_record
from jang_runtime._bench_task import (
    BenchOptions,
    RunTimes,
    Step,
    make_steps,
    run_from_json,
    shortened,
    task_as_json,
)
from jang_runtime._errors import BenchError, ModelError

OURS: Final = "jang-runtime"
_MODULE: Final = [sys.executable, "-m", "jang_runtime._bench_ours"]
# -P: the directory of the file has names that others import.
_FILE: Final = [sys.executable, "-P", str(Path(__file__).with_name("_bench_peer.py"))]
# Ours, and those of the libraries that multiply matrices.
_THREAD_VARIABLES: Final = (
    "JANG_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
_READ_BYTES: Final = 1 << 24


@dataclass(frozen=True)
class Contender:
    """A program that takes part.

    Attributes:
        program: Its name and what is said of it.
        command: Takes a task on its input, prints what a run took.
        model: What it loads.
        dtype: "float32" to cast the floats of the model to; None for as they are.
        is_short: Whether it has one run with few tokens, because it is slow.
    """

    program: Program
    command: Sequence[str]
    model: str
    dtype: str | None = None
    is_short: bool = False


def ours(model: Path) -> Contender:
    """Our engine."""
    return Contender(Program(OURS, ""), _MODULE, str(model))


def stock_mlx_lm(model: Path) -> list[Contender]:
    """Stock mlx-lm as a user would run it; on the CPU also in float32, where it is faster.

    Raises:
        ModelError: If the directory is no model that it loads.
    """
    directory = _directory(model)
    if directory.layout is not MLX_LAYOUT:
        raise ModelError(
            f"{model}: found block layout, expected MLX layout, which is all that stock mlx-lm "
            f"loads; jang-format convert {model} OUT --layout mlx makes it"
        )
    name, path = "mlx-lm", str(model)
    if detect_backend() != "cpu":
        return [Contender(Program(name, "as it loads"), _FILE, path)]
    plain = Contender(Program(name, "float32"), _FILE, path, dtype="float32")
    stored = _stored_dtypes(directory) - {"F32"}
    if not stored:
        return [plain]
    note = f"{' and '.join(sorted(stored))}; one run of few tokens, no batches"
    return [plain, Contender(Program(f"{name} as it loads", note), _FILE, path, is_short=True)]


def bench(
    model: Path,
    contenders: Sequence[Contender],
    options: BenchOptions,
    on_progress: Callable[[int, int, str], None] = lambda done, total, label: None,
) -> BenchRecord:
    """Run all contenders in turn, several times, and collect what it took.

    Args:
        model: The directory that ours runs.
        contenders: Who takes part; the first is compared with the best of the others.
        options: What is measured.
        on_progress: Called with runs done, runs in all, and what runs.

    Raises:
        ModelError: If the directory is no model.
        BenchError: If a program fails.
    """
    directory = _directory(model)
    _into_page_cache(model)
    rounds = list(_rounds(contenders, options.runs))
    steps = [
        make_steps(options, vocabulary_size(directory), detect_backend() != "cpu", salt)
        for salt in range(options.runs)
    ]
    taken: dict[str, list[RunTimes]] = {each.program.name: [] for each in contenders}
    for number, (salt, contender) in enumerate(rounds):
        on_progress(number, len(rounds), contender.program.name)
        taken[contender.program.name].append(_run(contender, steps[salt], options.threads))
    on_progress(len(rounds), len(rounds), "")
    return BenchRecord(
        model=_model_facts(taken),
        conditions=_conditions(taken, contenders[0], options),
        options=options,
        programs=tuple(
            program_record(each.program, taken[each.program.name]) for each in contenders
        ),
    )


def vocabulary_size(directory: ModelDirectory) -> int:
    """How many token ids a model has.

    Raises:
        ModelError: If its config does not say.
    """
    try:
        size = text_size(directory.config, "vocab_size")
    except JangFormatError as error:
        raise ModelError(f"{directory.path}/{error}") from error
    if size is None:
        raise ModelError(
            f"{directory.path}/config.json: vocab_size: found nothing, expected 1 or more"
        )
    return size


def _directory(model: Path) -> ModelDirectory:
    try:
        return read_directory(model)
    except JangFormatError as error:
        raise ModelError(str(error)) from error


def _stored_dtypes(directory: ModelDirectory) -> set[str]:
    return {
        tensor.spec.dtype for name, tensor in directory.tensors.items() if name.endswith(".scales")
    }


def _rounds(contenders: Sequence[Contender], runs: int) -> Iterator[tuple[int, Contender]]:
    for salt in range(runs):
        for contender in contenders:
            if salt == 0 or not contender.is_short:
                yield salt, contender


def _run(contender: Contender, steps: tuple[Step, ...], threads: int | None) -> RunTimes:
    """One process from its begin to its end.

    Raises:
        BenchError: If it fails.
    """
    environment = dict(os.environ, TRANSFORMERS_NO_ADVISORY_WARNINGS="1")
    if threads is not None:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    its_steps = shortened(steps) if contender.is_short else steps
    done = subprocess.run(
        contender.command,
        input=task_as_json(contender.model, contender.dtype, its_steps),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BenchError(
            f"{contender.program.name}: found exit status {done.returncode}, expected 0; "
            f"it said: {said[-1].removeprefix('error: ') if said else 'nothing'}"
        )
    return run_from_json(done.stdout)


def _into_page_cache(model: Path) -> None:
    """Read the files once, so that no program waits for the disk in place of the others."""
    for file in model.glob("*.safetensors"):
        with file.open("rb") as stream:
            while stream.read(_READ_BYTES):
                pass


def _model_facts(taken: Mapping[str, Sequence[RunTimes]]) -> Mapping[str, Any]:
    runs = (run for several in taken.values() for run in several)
    return next(run.model for run in runs if run.model)


def _conditions(
    taken: Mapping[str, Sequence[RunTimes]], first: Contender, options: BenchOptions
) -> Conditions:
    return conditions(taken[first.program.name][0].facts, options.threads)
