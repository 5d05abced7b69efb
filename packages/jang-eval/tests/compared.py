"""Small results, and what `compare` makes of them."""

import dataclasses
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_eval._documents import write_document
from jang_eval._evaluation import EvaluationResult, Metric, Outcome
from jang_eval._records import to_json
from jang_eval._statistics import Interval
from jang_eval.cli import app

MADE = run_path(str(Path(__file__).with_name("made_results.py")))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_result(label: str, rights: str, **changes: Any) -> EvaluationResult:
    """A result with a question for each letter: "y" where it was answered rightly."""
    outcomes = tuple(
        Outcome(f"q{index}", "zoology", {"correct": float(letter == "y")}, {"written": letter})
        for index, letter in enumerate(rights)
    )
    share = rights.count("y") / len(rights)
    interval = Interval(share / 2, (1 + share) / 2)
    metrics = (
        Metric("accuracy", share, interval, "", "higher", len(rights)),
        Metric("seconds", 12345.6, None, "s", "lower", 1),
        Metric("accuracy/zoology", share, interval, "", "higher", len(rights) - 1),
        Metric("accuracy/max", 1.0, None, "", "", len(rights)),
    )
    made: EvaluationResult = MADE["a_result"](
        "mmlu", label, 4.5, list(metrics), list(outcomes), {"shots": "5"}
    )
    return dataclasses.replace(made, **changes)


def write(result: EvaluationResult, name: str) -> None:
    write_document(to_json(result), Path(name))


def compare(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments])
