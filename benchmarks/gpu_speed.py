"""How fast a model of 1.2 G weights at mixed widths runs on a GPU: our engine and stock mlx-lm.

    python benchmarks/gpu_speed.py --work DIR --tokenizer SMOLLM2 --page FILE.md --record FILE.json

Writes a random model of Llama 3.2 1B's shape into DIR, packed (0.8 GB), and measures it as
`jang-runtime bench --against mlx-lm` does, both as they load, after a round that does not count: in
it the kernels are compiled, some for a minute. MLX_PTX_CACHE_DIR and CUDA_CACHE_PATH have to name
directories that can be written, or every process compiles them anew. SMOLLM2 is a directory with a
tokenizer that both can load, such as a converted SmolLM2; its text is never looked at. --quick is
for a rehearsal on any machine.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from packed_models import LLAMA_1B, write_packed_model
from quality.checkout import ROOT, checked_out_commit
from speed.page import page

from jang_format.terminal import count_progress
from jang_runtime._bench import bench, ours, stock_mlx_lm
from jang_runtime._bench_task import BenchOptions

RESULT: Final = ROOT / "docs" / "results" / "gpu-speed.md"
# A process compiles the kernels of the shapes that it meets, most of a minute: few shapes.
OPTIONS: Final = BenchOptions((512,), 128, (1, 4), runs=7)
QUICK: Final = BenchOptions((16, 32), 4, (1, 2), runs=1)
# Bits by the last part of a module's path; groups of 64.
_BITS: Final = {"embed_tokens": 6, "gate_proj": 3, "up_proj": 3, "down_proj": 4}
_ATTENTION_BITS: Final = 6
_GROUP_SIZE: Final = 64
_INTRODUCTION: Final = """
A random model of Llama 3.2 1B's shape, scales in bfloat16: embedding, which is the head, and
attention at 6 bits, gate and up at 3, down at 4, in groups of 64. Both programs compute in bfloat16
with MLX's kernels, ours through its engine by requests and events, mlx-lm by `generate_step` and
`BatchGenerator` without turning tokens into text.
"""


def mixed(path: str) -> tuple[int, int]:
    """Bits and group size of a module."""
    return _BITS.get(path.rpartition(".")[2], _ATTENTION_BITS), _GROUP_SIZE


def made(work: Path, config: dict[str, Any], tokenizer: Path | None) -> Path:
    """The model's directory, written unless it is there already."""
    out = work / f"llama-{config['num_hidden_layers']}x{config['hidden_size']}"
    if not out.exists():
        write_packed_model(out, config, mixed, tokenizer=tokenizer)
    return out


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the model is written")
    parser.add_argument("--tokenizer", type=Path, help="a directory that has one")
    parser.add_argument("--page", type=Path, default=RESULT, help="what is written")
    parser.add_argument("--record", type=Path, help="every value of every run, as JSON")
    parser.add_argument("--commit", help="for the page, where there is no git")
    parser.add_argument("--runs", type=int, default=OPTIONS.runs, help="of each program")
    parser.add_argument("--quick", action="store_true", help="a small model, and no page")
    return parser.parse_args()


def command_line(options: argparse.Namespace) -> str:
    """The command for the page, without paths of this machine."""
    placeholders = {
        str(options.work): "DIR",
        str(options.tokenizer): "SMOLLM2",
        str(options.page): "FILE.md",
        str(options.record): "FILE.json",
    }
    given = [placeholders.get(part, part) for part in sys.argv[1:]]
    return shlex.join(["python", "benchmarks/gpu_speed.py", *given])


def main() -> None:
    """Measure and write record and page."""
    options = arguments()
    config = dict(LLAMA_1B)
    if options.quick:
        config |= {"num_hidden_layers": 2, "hidden_size": 512, "vocab_size": 4096}
        config |= {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1024}
    plan = QUICK if options.quick else replace(OPTIONS, runs=options.runs)
    options.work.mkdir(parents=True, exist_ok=True)
    model = made(options.work, config, options.tokenizer)
    contenders = [ours(model), *stock_mlx_lm(model)]
    with count_progress("first round") as show:
        bench(model, contenders, replace(plan, runs=1), show)
    with count_progress("runs") as show:
        record = bench(model, contenders, plan, show)
    if options.record is not None:
        options.record.write_text(json.dumps(record.as_json(), indent=2))
    commit = options.commit or checked_out_commit()
    text = page("Speed on a GPU", _INTRODUCTION, command_line(options), [record], commit)
    if not options.quick:
        options.page.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
