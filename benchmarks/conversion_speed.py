"""How fast and in how much memory models are converted, beside other programs.

    uv run python benchmarks/conversion_speed.py --work DIR

Writes random models into DIR (10.5 GB, kept for the next time), installs the published package
there, converts each model with each program, and writes docs/results/conversion-speed.md. With
--quick the models are tiny and the page is only printed.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from conversion.models import MODELS, QUICK_MODELS, Model, made
from conversion.page import Row, Run, page
from conversion.programs import Program, mlx_lm, ours, published
from quality.checkout import ROOT, checked_out_commit

RESULT: Final = ROOT / "docs" / "results" / "conversion-speed.md"
WATCH: Final = Path(__file__).parent / "conversion" / "watch.py"
_READ_BYTES: Final = 1 << 24


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def into_page_cache(directory: Path) -> None:
    """Read all files of a directory once, and wait until nothing is left to be written."""
    os.sync()
    for file in directory.iterdir():
        with file.open("rb") as stream:
            while stream.read(_READ_BYTES):
                pass


def measure(program: Program, source: Path, work: Path, limit: float) -> Run:
    """Convert once and remove what comes out."""
    outputs, log = work / "outputs", work / "log"
    shutil.rmtree(outputs, ignore_errors=True)
    outputs.mkdir()
    out = outputs / "model"
    into_page_cache(source)
    watched = [sys.executable, "-I", str(WATCH), str(limit), str(log)]
    done = subprocess.run(
        [*watched, *program.command(source, out)], check=True, stdout=subprocess.PIPE, text=True
    )
    output = sum(file.stat().st_size for file in outputs.rglob("*") if file.is_file())
    shutil.rmtree(outputs)
    run = Run(**json.loads(done.stdout), output=output)
    if run.status and not run.killed:
        say(f"exit status {run.status}, of which {log} says:\n{log.read_text()[-2000:]}")
    return run


def measured(
    model: Model, programs: Sequence[Program], work: Path, runs: int, limit: float
) -> Iterator[Row]:
    """Each program's runs on a model, all programs in turn; who does not finish has one run."""
    source = made(model, work / "models")
    taken: dict[str, list[Run]] = {program.name: [] for program in programs}
    for number in range(runs):
        for program in programs:
            if any(run.killed for run in taken[program.name]):
                continue
            run = measure(program, source, work, limit)
            taken[program.name].append(run)
            say(
                f"{model.name}, run {number + 1}, {program.name}: {run.seconds:.2f} s, "
                f"{run.processor_seconds:.1f} s of processor, {run.anonymous / 1e6:,.0f} MB"
            )
    for program in programs:
        yield Row(model, program, tuple(taken[program.name]))


def warm_up(programs: Sequence[Program], work: Path) -> None:
    """One run of each program that does not count: byte code, compiled kernels."""
    for model in QUICK_MODELS.values():
        source = made(model, work / "models")
        for program in programs:
            measure(program, source, work, limit=600)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="on a disk with 20 GB, kept")
    parser.add_argument("--runs", type=int, default=5, help="of each program on each model")
    parser.add_argument("--models", default=",".join(MODELS), help=f"some of {','.join(MODELS)}")
    parser.add_argument("--methods", default="rtn", help="ours: some of rtn,mse,gptq")
    parser.add_argument("--calibration", help="for mse and gptq, as jang-quant convert takes it")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a run may take")
    parser.add_argument("--quick", action="store_true", help="tiny models, and no page is written")
    return parser.parse_args()


def chosen_programs(options: argparse.Namespace, work: Path) -> list[Program]:
    """Ours by each method, and the other two."""
    methods: list[str] = options.methods.split(",")
    calibrations = [None if method == "rtn" else options.calibration for method in methods]
    return [*map(ours, methods, calibrations), mlx_lm(), published(work)]


def command_line(options: argparse.Namespace) -> str:
    """The command for the page, without paths of this machine."""
    placeholders = {str(options.work): "DIR"}
    if options.calibration and Path(options.calibration).exists():
        placeholders[options.calibration] = "FILE"
    given = [placeholders.get(part, part) for part in sys.argv[1:]]
    return shlex.join(["uv", "run", "python", "benchmarks/conversion_speed.py", *given])


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    # Python keeps compiled modules, as it does for users.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    work: Path = options.work.resolve()
    known = QUICK_MODELS if options.quick else MODELS
    models = [known[name] for name in options.models.split(",")]
    programs = chosen_programs(options, work)
    warm_up(programs, work)
    rows = [
        row
        for model in models
        for row in measured(model, programs, work, options.runs, options.limit)
    ]
    text = page(rows, models, command_line(options), checked_out_commit())
    if not options.quick:
        RESULT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
