"""`compare` with results of `qa`: metrics and tests as of all tasks, and every answer."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_eval import EvaluationResult, FailureMode, Outcome, Verdict, write_result
from jang_eval._model_info import ModelInfo
from jang_eval._tasks.qa import aggregate
from jang_eval.cli import app

SETTINGS = {"max_tokens": "64", "temperature": "0"}


def an_answer(id: str, text: str, verdict: Verdict, mode: FailureMode | None) -> Outcome:
    texts = {"question": f"What is {id}?", "answer": text, "verdict": str(verdict)}
    texts |= {"failure mode": str(mode)} if mode else {}
    return Outcome(id, "", {"correct": float(verdict == Verdict.CORRECT)}, texts)


def a_result(profile: str, bpw: float, *answers: Outcome, **settings: str) -> EvaluationResult:
    model = ModelInfo("smol", "llama", profile, bpw, 54_000_000, 1, 1, (), True, "smollm2", "")
    return EvaluationResult(
        "qa",
        2,
        "ab" * 32,
        "0.1.0",
        "h:1",
        SETTINGS | settings,
        model,
        tuple(aggregate(answers)),
        answers,
        1.5,
    )


GOOD = a_result(
    "JANG_4M",
    4.5,
    an_answer("2+2", "4", Verdict.CORRECT, None),
    an_answer("light", "a | b\n`c` ``d``", Verdict.PARTIAL, None),
)
BAD = a_result(
    "JANG_2L",
    2.754,
    an_answer("2+2", "0" * 500, Verdict.BROKEN, FailureMode.REPETITION_LOOP),
    an_answer("light", "", Verdict.BROKEN, FailureMode.EMPTY),
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments])


def test_answers_of_qa_have_intervals_a_paired_test_and_stand_side_by_side(
    directory: Path,
) -> None:
    write_result(GOOD, Path("good.json"))
    write_result(BAD, Path("bad.json"))

    result = compare("bad.json", "good.json")

    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    text = result.stdout
    assert text.startswith(
        "## qa\n"
        "\n"
        "| model | bpw | MB | correct (%) ↑ | partial (%) | broken (%) ↓ |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| JANG_2L | 2.75 | 54.0 | 0.0 (0.0 to 65.8) | 0.0 (0.0 to 65.8) "
        "| 100.0 (34.2 to 100.0) |\n"
        "| JANG_4M | 4.50 | 54.0 | 50.0 (9.5 to 90.5) | 50.0 (9.5 to 90.5) | 0.0 (0.0 to 65.8) |\n"
    )
    assert "| JANG_2L | JANG_4M | 0 | 1 | 2 | 1.0000 | 1.0000 |\n" in text
    assert text[text.index("### Verdicts") : text.index("## Results")] == (
        "### Verdicts\n"
        "\n"
        "| question | JANG_2L | JANG_4M |\n"
        "| --- | --- | --- |\n"
        "| What is 2+2? | broken: repetition loop | correct |\n"
        "| What is light? | broken: empty | partial |\n"
        "\n"
        "### What is 2+2?\n"
        "\n"
        f"- JANG_2L: `{'0' * 159}…`\n"
        "- JANG_4M: `4`\n"
        "\n"
        "### What is light?\n"
        "\n"
        "- JANG_2L: (empty)\n"
        "- JANG_4M: ``` a | b `c` ``d`` ```\n"
        "\n"
        f"Task qa, version 2; data sha256 {'ab' * 32}; max_tokens: 64; temperature: 0.\n"
        "\n"
    )


def test_the_json_has_the_answers_whole(directory: Path) -> None:
    write_result(GOOD, Path("good.json"))
    write_result(BAD, Path("bad.json"))

    (task,) = json.loads(compare("--json", "bad.json", "good.json").stdout)["tasks"]

    loop = {"model": "JANG_2L", "verdict": "broken", "failure_mode": "repetition loop"}
    assert task["answers"][0] == {
        "id": "2+2",
        "question": "What is 2+2?",
        "answers": [
            loop | {"answer": "0" * 500},
            {"model": "JANG_4M", "verdict": "correct", "failure_mode": "", "answer": "4"},
        ],
    }


def test_answers_of_another_length_are_not_compared(directory: Path) -> None:
    write_result(GOOD, Path("good.json"))
    write_result(
        dataclasses.replace(BAD, settings=SETTINGS | {"max_tokens": "16"}), Path("short.json")
    )

    result = compare("good.json", "short.json")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: short.json: settings.max_tokens: found 16, expected 64 as in good.json\n"
    )


def test_a_file_that_is_not_there_is_one_line(directory: Path) -> None:
    result = compare("none.json")
    assert result.exit_code == 2
    assert result.stderr == "error: none.json: cannot be read: No such file or directory\n"
