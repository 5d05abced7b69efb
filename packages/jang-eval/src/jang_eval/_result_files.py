"""Files that hold the result of a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from jang_eval._documents import read_document, write_document
from jang_eval._errors import ResultFileError
from jang_eval._evaluation import EvaluationResult
from jang_eval._records import FieldError, from_json, to_json


def write_result(result: EvaluationResult, path: Path) -> None:
    """Writes the result, whole or not at all: a reader never sees half of it.

    Raises:
        ResultFileError: The file cannot be written.
    """
    write_document(to_json(result), path)


def read_result(path: Path) -> EvaluationResult:
    """Reads a result of any task and checks every field of it.

    Raises:
        ResultFileError: There is no such file, or it does not hold a result.
    """
    document = read_document(path)
    try:
        _check_form(document)
        result = from_json(EvaluationResult, document)
        _check_unique("metrics", [metric.name for metric in result.metrics])
        _check_unique("outcomes", [outcome.id for outcome in result.outcomes])
    except FieldError as error:
        raise ResultFileError(f"{path}: {error}") from error
    return result


def _check_form(document: object) -> None:
    """Says of a result of `qa` from before it was a task like others what it is."""
    if isinstance(document, dict) and "answers" in document and "metrics" not in document:
        answers = cast("dict[str, object]", document)["answers"]
        expected = "metrics and outcomes: `jang-eval qa` wrote another form once; ask again"
        raise FieldError("answers", answers, expected)


def _check_unique(field: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise FieldError(f"{field}[{index}]", name, "a name that no other has")
        seen.add(name)
