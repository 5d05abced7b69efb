"""SmolLM2 in ten sizes, ours and MLX's: the page that `jang-eval report` writes of them.

    uv run python benchmarks/quality/smollm2_report.py wiki.test.raw c4.utf8 --mmlu mmlu \
        --humaneval HumanEval.jsonl.gz --work DIR

Makes what `jang-eval report` does not make itself: the source in float32, which is the reference,
a calibration on the text, and what mlx_lm.convert makes of the source (2, 3 and 4 bits, mixed_2_6).
Then it runs the report and keeps its pages as docs/results/report-smollm2.md and .html. What
models write for HumanEval is run in jang-eval's sandbox. What is in DIR is not made again.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

from calibrations import calibrate
from checkout import ROOT, checked_out_commit
from commands import SOURCE
from peers import Workshop, make_all, recipe, uniform, write_source

from jang_quant import open_source

RESULT: Final = ROOT / "docs" / "results" / "report-smollm2"
_PEERS: Final = (uniform(2), uniform(3), uniform(4), recipe("mixed_2_6"))
# Half of the default; a minute or two on two cores.
_CALIBRATION: Final = ("--sequences", "64")
# What the report cannot know of the reference.
_SERVED: Final = "The reference is source, served as it is."
_WHAT_IT_IS: Final = (
    "The reference is the GGUF file's weights, 4 bits in groups of 32, dequantized to float32; "
    "the others have groups of 64. Ours are made by jang-quant, mlx-… by mlx_lm.convert "
    "(round to nearest, no calibration). Written by benchmarks/quality/smollm2_report.py."
)
_PROFILES: Final = "4M,3M,2S"
_BITS: Final = "2.5,3.5,4.5"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("text", type=Path, help="wiki.test.raw of wikitext-2")
    add("calibration", help="a text, or a file of `jang-quant calibrate`")
    add("--mmlu", type=Path, required=True, help="MMLU's directory")
    add("--humaneval", type=Path, required=True, help="HumanEval.jsonl.gz")
    add("--work", type=Path, required=True, help="a directory for what is made")
    add("--commit", default="", help="of this repository, where git cannot be asked")
    return parser.parse_args()


def report_command(asked: argparse.Namespace, source: Path, calibration: Path) -> list[str]:
    """The command line of the report."""
    models = asked.work / "mlx"
    directories = [f"--directory=mlx-{each.name}={models / each.name}" for each in _PEERS]
    return [
        *(str(Path(sys.executable).with_name("jang-eval")), "report", SOURCE),
        *("--reference", str(source), "--profiles", _PROFILES, "--bits", _BITS),
        *("--method", "gptq", "--calibration", str(calibration), *directories),
        *("--mmlu", str(asked.mmlu), "--shots", "0"),
        *("--humaneval", str(asked.humaneval), "--allow-code-execution"),
        *("--text", str(asked.text), "--work", str(asked.work / "report")),
        *("--commit", asked.commit or checked_out_commit()),
    ]


def main() -> None:
    """Make, measure, keep the pages."""
    asked = arguments()
    source = write_source(open_source(SOURCE), asked.work / "source")
    calibration = calibrate(asked.calibration, asked.work / "c4.safetensors", _CALIBRATION)
    make_all(_PEERS, Workshop(source, calibration, ()), asked.work / "mlx", 1)
    done = subprocess.run(report_command(asked, source, calibration), check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    for suffix in (".md", ".html"):
        text = (asked.work / "report" / f"report{suffix}").read_text(encoding="utf-8")
        RESULT.with_suffix(suffix).write_text(text.replace(_SERVED, _WHAT_IT_IS), encoding="utf-8")


if __name__ == "__main__":
    main()
