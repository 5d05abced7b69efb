"""Results of the task `qa` alone, side by side: the questions are few enough to show each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jang_eval._errors import ComparisonError
from jang_eval._failure_modes import FailureMode
from jang_eval._judge import Verdict
from jang_eval._results import ModelInfo, QaResult, Settings, Totals, shown_path


@dataclass(frozen=True)
class ComparedModel:
    """One column: a model, named so that no other column has the same name."""

    label: str
    file: str
    target: str
    settings: Settings
    model: ModelInfo
    totals: Totals


@dataclass(frozen=True)
class ComparedAnswer:
    """One cell."""

    verdict: Verdict
    failure_mode: FailureMode | None
    answer: str


@dataclass(frozen=True)
class ComparedQuestion:
    """One row: a question and every model's answer, in the order of the models."""

    id: str
    question: str
    answers: tuple[ComparedAnswer, ...]


@dataclass(frozen=True)
class Comparison:
    """Models that were asked the same questions under the same rules."""

    task: str
    task_version: int
    data_sha256: str
    models: tuple[ComparedModel, ...]
    questions: tuple[ComparedQuestion, ...]


def compare_results(results: Sequence[tuple[Path, QaResult]]) -> Comparison:
    """Puts results beside each other.

    Args:
        results: At least one result, each with the file that it came from.

    Raises:
        ComparisonError: Two results differ in task version, in data, or in the questions answered.
    """
    first_path, first = results[0]
    for path, result in results[1:]:
        _check_comparable(first_path, first, path, result)
    labels = _labels(results)
    return Comparison(
        task=first.task,
        task_version=first.task_version,
        data_sha256=first.data_sha256,
        models=tuple(
            ComparedModel(
                label=label,
                file=shown_path(path),
                target=result.target,
                settings=result.settings,
                model=result.model,
                totals=result.totals,
            )
            for label, (path, result) in zip(labels, results, strict=True)
        ),
        questions=tuple(
            ComparedQuestion(
                id=answers[0].id,
                question=answers[0].question,
                answers=tuple(
                    ComparedAnswer(answer.verdict, answer.failure_mode, answer.answer)
                    for answer in answers
                ),
            )
            for answers in zip(*(result.answers for _, result in results), strict=True)
        ),
    )


def _check_comparable(first_path: Path, first: QaResult, path: Path, result: QaResult) -> None:
    comparisons: tuple[tuple[str, object, object], ...] = (
        ("task_version", result.task_version, first.task_version),
        ("data_sha256", result.data_sha256, first.data_sha256),
        # A digest that fits does not help where a file was edited by hand.
        ("answers", _ids(result), _ids(first)),
    )
    for field, found, expected in comparisons:
        if found != expected:
            raise ComparisonError(
                f"{path}: {field}: found {found}, expected {expected} as in {first_path}"
            )


def _ids(result: QaResult) -> str:
    return " ".join(answer.id for answer in result.answers) or "no answers"


def _labels(results: Sequence[tuple[Path, QaResult]]) -> list[str]:
    """Names the columns; where several would have one name, the file's name tells them apart."""
    labels = [_label(result.model) for _, result in results]
    counts = Counter(labels)
    return [
        label if counts[label] == 1 else f"{label}, {shown_path(path)}"
        for label, (path, _) in zip(labels, results, strict=True)
    ]


def _label(model: ModelInfo) -> str:
    name = model.profile or model.name
    # A server that does not know sends proto3's zero.
    bpw = f"{model.bits_per_weight:.2f} bpw" if model.bits_per_weight > 0 else "bpw unknown"
    return f"{name}, {bpw}"
