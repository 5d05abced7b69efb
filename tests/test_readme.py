"""What README.md shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_client_in_readme_streams_an_answer(served: str) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert '"127.0.0.1:50051"' in program
    ran = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:50051", served)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    profile, answer = ran.stdout.split("\n", 1)
    assert profile == "JANG_4M"
    assert answer


def test_ci_runs_the_test_command_of_readme() -> None:
    commands = re.findall(r"^    (.*)$", README.split("## What you can do")[0], re.MULTILINE)
    assert commands == [
        'python3 -m pip install uv && uv run jang run smollm2 "What is 2+2?"',
        "uv run pytest",
    ]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == commands[-1]


def test_every_link_in_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
