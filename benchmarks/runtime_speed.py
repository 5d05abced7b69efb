"""How fast SmolLM2 runs on the CPU: our engine, stock mlx-lm, and llama.cpp, in one run.

    uv run python benchmarks/runtime_speed.py --work DIR

Converts SmolLM2 to 4 bits in groups of 64 into DIR, builds llama-cpp-python there from its source
unless DIR/llama has it (ten minutes on two cores), and writes docs/results/runtime-speed.md.

The protocol is that of `jang-runtime bench`: every run is a process of its own, all programs in
turn, as often as --runs says; the same tokens for all; for each number of threads a table. mlx-lm
runs as it loads and in float32. llama.cpp runs the GGUF file that the conversion came from: Q4_1,
groups of 32, its embedding in Q8_0. Leave the machine alone meanwhile. With --quick everything is
short and the page is only printed.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Final

from conversion.programs import install
from quality.checkout import ROOT, checked_out_commit
from speed.page import page

from jang_format.terminal import count_progress
from jang_quant import convert, find_profile, open_source, plan_source
from jang_quant._sources.resolve import packaged_gguf
from jang_runtime._bench import Contender, bench, ours, stock_mlx_lm
from jang_runtime._bench_record import BenchRecord, Program
from jang_runtime._bench_task import BenchOptions

RESULT: Final = ROOT / "docs" / "results" / "runtime-speed.md"
LLAMA: Final = "llama-cpp-python==0.3.36"
_RUN_LLAMA: Final = Path(__file__).parent / "speed" / "llama_cpp_run.py"
_INTRODUCTION: Final = """
SmolLM2-135M-Instruct at 4 bits in groups of 64, from its Q4_1 file, which llama.cpp runs. `threads`
is what ours and llama.cpp were told; stock MLX computes on one thread.
"""


def llama_cpp(work: Path, threads: int) -> Contender:
    """llama.cpp on the file that is converted, built below `work` unless it is there already."""
    python = work / "llama" / "bin" / "python"
    if not python.exists():
        install(python.parents[1], ["--no-binary", "llama-cpp-python", LLAMA])
    model = packaged_gguf()
    note = f"{model.name}, {model.stat().st_size / 1e6:.0f} MB"
    command = [str(python), str(_RUN_LLAMA), str(threads)]
    return Contender(Program("llama.cpp", note), command, str(model))


def converted(work: Path) -> Path:
    """SmolLM2 at 4 bits, converted unless it is there already."""
    out = work / "smollm2-uniform-4"
    if not out.exists():
        source = open_source("smollm2")
        convert(source, out, plan_source(source, find_profile("UNIFORM_4")))
    return out


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="kept for the next time")
    parser.add_argument("--runs", type=int, default=5, help="of each program")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="a table each")
    parser.add_argument("--quick", action="store_true", help="few tokens, and no page is written")
    return parser.parse_args()


def measured(work: Path, threads: int, options: argparse.Namespace) -> BenchRecord:
    """All programs with one number of threads."""
    model = converted(work)
    contenders = [ours(model), *stock_mlx_lm(model), llama_cpp(work, threads)]
    plan = (
        BenchOptions((64,), 16, (1, 4), options.runs, threads)
        if options.quick
        else BenchOptions((128, 512), 64, (1, 4, 16), options.runs, threads)
    )
    with count_progress(f"{threads} threads") as show:
        return bench(model, contenders, plan, show)


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    records = [measured(work, threads, options) for threads in options.threads]
    (work / "runtime-speed.json").write_text(
        json.dumps([record.as_json() for record in records], indent=2)
    )
    given = ["DIR" if part == str(options.work) else part for part in sys.argv[1:]]
    command = shlex.join(["uv", "run", "python", "benchmarks/runtime_speed.py", *given])
    text = page("Speed on the CPU", _INTRODUCTION, command, records, checked_out_commit())
    if not options.quick:
        RESULT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
