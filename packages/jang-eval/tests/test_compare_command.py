import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_eval import FailureMode, QaResult, Verdict, write_result
from jang_eval._results import JudgedAnswer, ModelInfo, Settings, Totals
from jang_eval.cli import app


def an_answer(id: str, text: str, verdict: Verdict, mode: FailureMode | None) -> JudgedAnswer:
    return JudgedAnswer(id, f"What is {id}?", text, verdict, mode, (), "eos", 1, 1, 0.5)


def a_result(profile: str, bpw: float, *answers: JudgedAnswer) -> QaResult:
    model = ModelInfo("smol", "llama", profile, bpw, 54_000_000, 1, 1, (), True, "smollm2", "")
    return QaResult(
        "qa", 1, "ab" * 32, "0.1.0", "h:1", Settings(64, 0.0), model, answers, Totals.of(answers)
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


def write(result: QaResult, name: str) -> None:
    write_result(result, Path(name))


def test_the_markdown_has_a_column_for_each_model_and_every_answer_below(directory: Path) -> None:
    write(GOOD, "good.json")
    write(BAD, "bad.json")

    result = compare("bad.json", "good.json")

    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout == (
        "| question | JANG_2L, 2.75 bpw | JANG_4M, 4.50 bpw |\n"
        "| --- | --- | --- |\n"
        "| What is 2+2? | broken: repetition loop | correct |\n"
        "| What is light? | broken: empty | partial |\n"
        "| total | 0 correct, 0 partial, 2 broken | 1 correct, 1 partial, 0 broken |\n"
        "\n"
        "## Models\n"
        "\n"
        "- JANG_2L, 2.75 bpw: smol, JANG_2L, 2.75 bpw, 54.0 MB, from smollm2; "
        "up to 64 tokens; `bad.json`\n"
        "- JANG_4M, 4.50 bpw: smol, JANG_4M, 4.50 bpw, 54.0 MB, from smollm2; "
        "up to 64 tokens; `good.json`\n"
        "\n"
        "## Answers\n"
        "\n"
        "### What is 2+2?\n"
        "\n"
        f"- JANG_2L, 2.75 bpw: `{'0' * 159}…`\n"
        "- JANG_4M, 4.50 bpw: `4`\n"
        "\n"
        "### What is light?\n"
        "\n"
        "- JANG_2L, 2.75 bpw: (empty)\n"
        "- JANG_4M, 4.50 bpw: ``` a | b `c` ``d`` ```\n"
        "\n"
        f"Task qa, version 1, data sha256 `{'ab' * 32}`.\n"
    )


def test_the_json_has_the_same_and_the_answers_whole(directory: Path) -> None:
    write(GOOD, "good.json")
    write(BAD, "bad.json")

    result = compare("--json", "bad.json", "good.json")

    document = json.loads(result.stdout)
    assert [model["label"] for model in document["models"]] == [
        "JANG_2L, 2.75 bpw",
        "JANG_4M, 4.50 bpw",
    ]
    assert [model["totals"]["broken"] for model in document["models"]] == [2, 0]
    assert document["questions"][0] == {
        "id": "2+2",
        "question": "What is 2+2?",
        "answers": [
            {"verdict": "broken", "failure_mode": "repetition loop", "answer": "0" * 500},
            {"verdict": "correct", "failure_mode": None, "answer": "4"},
        ],
    }


def test_models_of_one_profile_are_told_apart_by_their_files(directory: Path) -> None:
    unknown = a_result("", 0, *GOOD.answers)
    for name, each in {"a.json": GOOD, "b.json": GOOD, "c.json": unknown}.items():
        write(each, name)

    result = compare("a.json", "b.json", "c.json", "--json")

    assert [model["label"] for model in json.loads(result.stdout)["models"]] == [
        "JANG_4M, 4.50 bpw, a.json",
        "JANG_4M, 4.50 bpw, b.json",
        "smol, bpw unknown",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"task_version": 2}, "task_version: found 2, expected 1 as in good.json"),
        ({"data_sha256": "cd"}, f"data_sha256: found cd, expected {'ab' * 32} as in good.json"),
        (
            {"answers": (), "totals": Totals.of(())},
            "answers: found no answers, expected 2+2 light as in good.json",
        ),
    ],
)
def test_results_that_do_not_belong_together_are_refused(
    directory: Path, change: dict[str, Any], line: str
) -> None:
    write(GOOD, "good.json")
    write(dataclasses.replace(GOOD, **change), "other.json")

    result = compare("good.json", "good.json", "other.json")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"error: other.json: {line}\n"


def test_a_file_that_is_not_there_is_one_line(directory: Path) -> None:
    result = compare("none.json")
    assert result.exit_code == 2
    assert result.stderr == "error: none.json: cannot be read: No such file or directory\n"
