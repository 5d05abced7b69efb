"""Files that hold results of any task."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jang_eval._errors import ResultFileError
from jang_eval._evaluation import EvaluationResult, Metric, Outcome
from jang_eval._judge import Verdict
from jang_eval._records import FieldError, from_json
from jang_eval._results import TASK, JudgedAnswer, QaResult, read_document, read_result
from jang_eval._statistics import wilson


@dataclass(frozen=True)
class _Header:
    task: str


def read_any_result(path: Path) -> EvaluationResult | QaResult:
    """Reads a result of any task and checks every field of it.

    Raises:
        ResultFileError: There is no such file, or it does not hold a result.
    """
    document = read_document(path)
    try:
        if from_json(_Header, document).task == TASK:
            return read_result(path)
        result = from_json(EvaluationResult, document)
        _check_unique("metrics", [metric.name for metric in result.metrics])
        _check_unique("outcomes", [outcome.id for outcome in result.outcomes])
    except FieldError as error:
        raise ResultFileError(f"{path}: {error}") from error
    return result


def as_evaluation(result: EvaluationResult | QaResult) -> EvaluationResult:
    """A result in the form that all tasks but `qa` have."""
    if isinstance(result, EvaluationResult):
        return result
    count = result.totals.questions
    verdicts = (
        ("correct", result.totals.correct, "higher"),
        ("partial", result.totals.partial, ""),
        ("broken", result.totals.broken, "lower"),
    )
    return EvaluationResult(
        task=result.task,
        task_version=result.task_version,
        data_sha256=result.data_sha256,
        jang_eval_version=result.jang_eval_version,
        target=result.target,
        settings={
            "max_tokens": str(result.settings.max_tokens),
            "temperature": f"{result.settings.temperature:g}",
        },
        model=result.model,
        metrics=tuple(
            Metric(name, number / count, wilson(number, count), "", better, count)
            for name, number, better in verdicts
            if count
        ),
        outcomes=tuple(_outcome(answer) for answer in result.answers),
        seconds=result.totals.seconds,
    )


def _outcome(answer: JudgedAnswer) -> Outcome:
    mode = f": {answer.failure_mode}" if answer.failure_mode else ""
    return Outcome(
        id=answer.id,
        group="",
        numbers={"correct": float(answer.verdict == Verdict.CORRECT)},
        texts={
            "question": answer.question,
            "verdict": f"{answer.verdict}{mode}",
            "answer": answer.answer,
        },
    )


def _check_unique(field: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise FieldError(f"{field}[{index}]", name, "a name that no other has")
        seen.add(name)
