"""lm-evaluation-harness, through our adapter, comes to the numbers of our own `mmlu`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from jang_eval._target import Target
from jang_eval.cli import app

pytestmark = pytest.mark.interop

ROOT: Final = Path(__file__).parents[2]
DEV: Final = ' Is ice cold? ,yes,no,maybe,"never, ever",A\nWhat is 1 + 1?,2, 3 ,4,5,A\n'
TEST: Final = """Which of these is a fruit?,stone,apple,chair,river,B
"How many legs
has a spider? ",six,eight, ten,"none, ever",B
What is 2 + 2?,1,2,3,4,D
 Who sings?,a bird,a stone ,a fork,a lamp,A
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with jang-eval and its extra."""
    environment = tmp_path_factory.mktemp("environment")
    found = environment / "bin" / "python"
    run("uv", "venv", "--no-project", "--python", sys.executable, "--clear", ".", cwd=environment)
    eval_package = f"{ROOT / 'packages' / 'jang-eval'}[lm-eval]"
    run("uv", "pip", "install", "--python", found, ROOT / "proto", eval_package, cwd=environment)
    return found


@pytest.mark.parametrize("shots", [0, 2])
def test_every_question_has_the_same_verdict_and_scores(
    served: str, python: Path, tmp_path: Path, shots: int
) -> None:
    for split, text in (("dev", DEV), ("test", TEST)):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"miscellaneous_{split}.csv").write_text(text)
    work = tmp_path / "work"
    work.mkdir()
    script = Path(__file__).with_name("lm_eval_mmlu.py")
    printed = run(python, script, served, tmp_path, "miscellaneous", str(shots), work, cwd=work)
    theirs, (rolling,), written, chat, (likely, more) = json.loads(printed.splitlines()[-1])

    options = ["--target", served, "--data", str(tmp_path), "--shots", str(shots), "--json"]
    ours = json.loads(CliRunner().invoke(app, ["mmlu", *options]).stdout)
    assert len(theirs) == 4
    for outcome, (right, logprobs) in zip(ours["outcomes"], theirs, strict=True):
        assert outcome["numbers"]["correct"] == right
        assert outcome["arrays"]["logprobs"] == pytest.approx(logprobs, abs=1e-4)
    with Target(served, timeout=60) as target:
        assert len(chat) == 4
        for context, continuation, logprob in chat:
            assert context.startswith("system: The following are multiple choice questions")
            assert context.endswith("Answer:\nassistant: ")
            (score,) = target.score(context, [continuation], add_special_tokens=False)
            assert score.logprob == pytest.approx(logprob, abs=1e-4)
        # The context takes 512: two windows, the second with all that fits before what is new.
        tokens = target.tokenize("x" * 700, add_special_tokens=False)
        (head,) = target.score((0,), [tokens[:512]])
        (tail,) = target.score(tokens[187:511], [tokens[511:]])
        assert rolling == pytest.approx(head.logprob + sum(tail.token_logprobs[1:]), abs=1e-3)
        # Cut from the left: all but one of what is scored is read.
        (score,) = target.score(tokens[: 512 + 1 - 3], [target.tokenize(" yz")])
        assert likely == pytest.approx(score.logprob, abs=1e-4)
        overlong = target.tokenize("y" * (512 - 5))
        expected = target.complete_text(overlong, stop_strings=["\n"], max_tokens=5, temperature=0)
        assert more == expected.text
        expected = target.complete_text("It is", stop_strings=["\n"], max_tokens=5, temperature=0)
        assert written == [expected.text] * 4


def run(*arguments: Any, cwd: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hub")}
    done = subprocess.run(
        [str(each) for each in arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
