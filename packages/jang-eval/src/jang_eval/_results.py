"""What the task `qa` found, and the file that it is kept in."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jang_eval._errors import ResultFileError
from jang_eval._failure_modes import FailureMode
from jang_eval._judge import Verdict
from jang_eval._records import FieldError, from_json, to_json
from jang_eval._statistics import Interval

TASK = "qa"


@dataclass(frozen=True)
class PlanRow:
    """The modules of one role that are stored alike; see runtime.proto."""

    role: str
    bits: int | None
    group_size: int | None
    modules: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of tokens with a meaning of their own; see runtime.proto."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unknown: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The server's answer to `GetModelInfo`, field by field; see runtime.proto."""

    name: str
    architecture: str
    profile: str
    bits_per_weight: float
    weight_bytes: int
    context_length: int
    vocabulary_size: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    source_name: str
    source_quantization: str
    # Servers and files from before they were there have none of these.
    digest: str = ""
    layout: str = ""
    special_tokens: SpecialTokens = SpecialTokens()
    bits_per_weight_without_embeddings: float = 0.0
    parameters: int = 0
    plan: tuple[PlanRow, ...] = ()
    plan_digest: str = ""


@dataclass(frozen=True)
class Settings:
    """How the questions were asked."""

    max_tokens: int
    temperature: float


@dataclass(frozen=True)
class JudgedAnswer:
    """One question, what the model said, and what that is worth."""

    id: str
    question: str
    answer: str
    verdict: Verdict
    failure_mode: FailureMode | None
    ideas_found: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Totals:
    """The answers counted, and their tokens and seconds added up."""

    questions: int
    correct: int
    partial: int
    broken: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    @classmethod
    def of(cls, answers: Iterable[JudgedAnswer]) -> "Totals":
        """Counts and adds up."""
        answers = tuple(answers)
        verdicts = [answer.verdict for answer in answers]
        return cls(
            questions=len(answers),
            correct=verdicts.count(Verdict.CORRECT),
            partial=verdicts.count(Verdict.PARTIAL),
            broken=verdicts.count(Verdict.BROKEN),
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            completion_tokens=sum(answer.completion_tokens for answer in answers),
            # sum() rounds differently from Python 3.12 on, and the totals of a file are checked.
            seconds=math.fsum(answer.seconds for answer in answers),
        )


@dataclass(frozen=True)
class QaResult:
    """Everything that one run of `qa` found, with what it takes to repeat it."""

    task: str
    task_version: int
    data_sha256: str
    jang_eval_version: str
    target: str
    settings: Settings
    model: ModelInfo
    answers: tuple[JudgedAnswer, ...]
    totals: Totals
    # Of the share of correct answers; results from before it was there have none.
    correct_interval: Interval | None = None


@dataclass(frozen=True)
class _Header:
    task: str


def result_document(result: QaResult) -> str:
    """The result as the JSON document that files and `--json` hold."""
    return document_text(to_json(result))


def document_text(document: dict[str, Any]) -> str:
    """A document as files hold it."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def write_result(result: QaResult, path: Path) -> None:
    """Writes the result, whole or not at all: a reader never sees half of it.

    Raises:
        ResultFileError: The file cannot be written.
    """
    write_document(to_json(result), path)


def write_document(document: dict[str, Any], path: Path) -> None:
    """Writes a document, whole or not at all: a reader never sees half of it.

    Raises:
        ResultFileError: The file cannot be written.
    """
    write_whole(document_text(document), path)


def write_whole(text: str, path: Path) -> None:
    """Writes a text as UTF-8, whole or not at all.

    Raises:
        ResultFileError: The file cannot be written.
    """
    check_writable(path)
    # Beside the target, since only within one file system does a rename replace in one step.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be written: {error.strerror}") from error


def shown_path(path: Path) -> str:
    """A path as documents for others have it: from the current directory on, or its name alone."""
    here = Path.cwd().resolve()
    found = path.resolve()
    return found.relative_to(here).as_posix() if found.is_relative_to(here) else path.name


def check_writable(path: Path) -> None:
    """Tells before the work whether a result could be written there.

    Raises:
        ResultFileError: It could not.
    """
    # A rename would put a file in the place of a device such as /dev/null.
    if path.exists() and not path.is_file():
        raise ResultFileError(f"{path}: found something that is no file, expected a file")
    if not path.parent.is_dir():
        raise ResultFileError(f"{path}: found no directory {path.parent}, expected one")
    if not os.access(path.parent, os.W_OK):
        raise ResultFileError(f"{path}: found {path.parent} read-only, expected it writable")


def read_result(path: Path) -> QaResult:
    """Reads a result and checks every field of it.

    Raises:
        ResultFileError: There is no such file, or it does not hold a result of `qa`.
    """
    document = read_document(path)
    try:
        _check_task(document)
        result = from_json(QaResult, document)
        _check_totals(result)
    except FieldError as error:
        raise ResultFileError(f"{path}: {error}") from error
    return result


def read_document(path: Path) -> object:
    """The JSON document that a file holds, not looked into.

    Raises:
        ResultFileError: There is no such file, or it does not hold JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ResultFileError(f"{path}: found no JSON ({error}), expected a result") from error


def _check_task(document: object) -> None:
    """Says "another task" of another task's result, not which of this task's fields it lacks."""
    task = from_json(_Header, document).task
    if task != TASK:
        raise FieldError("task", task, repr(TASK))


def _check_totals(result: QaResult) -> None:
    counted = to_json(Totals.of(result.answers))
    for name, value in to_json(result.totals).items():
        if value != counted[name]:
            raise FieldError(f"totals.{name}", value, f"{counted[name]}, as the answers add up to")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
