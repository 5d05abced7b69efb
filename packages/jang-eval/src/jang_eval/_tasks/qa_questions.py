"""The questions of the task `qa`: `qa_questions.toml` beside this module, or one's own."""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from jang_eval._errors import DataError
from jang_eval._records import FieldError, from_json


@dataclass(frozen=True)
class Idea:
    """Something that an answer should say, and the pattern by which it is recognised."""

    name: str
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Question:
    """One question; `enough` of its `ideas` make an answer correct."""

    id: str
    text: str
    ideas: tuple[Idea, ...]
    enough: int


@dataclass(frozen=True)
class QuestionSet:
    """All questions, how a model without a chat template is asked, and the data's sha256."""

    questions: tuple[Question, ...]
    plain_prompt: str
    plain_stop_strings: tuple[str, ...]
    sha256: str


@cache
def load_questions() -> QuestionSet:
    """Reads the questions that come with this package."""
    return _question_set(
        resources.files("jang_eval._tasks").joinpath("qa_questions.toml").read_bytes()
    )


def read_questions(path: Path) -> QuestionSet:
    """Reads a list of questions in the form of `qa_questions.toml`.

    `plain_prompt` and `plain_stop_strings` may be missing, and are then those of the package;
    without `enough` one idea is.

    Raises:
        DataError: It cannot be read, or is in another form.
    """
    try:
        return _question_set(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (FieldError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _WrittenIdea:
    name: str
    pattern: str


@dataclass(frozen=True)
class _WrittenQuestion:
    id: str
    text: str
    ideas: tuple[_WrittenIdea, ...]
    enough: int = 1


@dataclass(frozen=True)
class _Written:
    questions: tuple[_WrittenQuestion, ...]
    plain_prompt: str = "Question: {question}\nAnswer:"
    plain_stop_strings: tuple[str, ...] = ("\nQuestion:",)


def _question_set(data: bytes) -> QuestionSet:
    written = from_json(_Written, tomllib.loads(data.decode()))
    if "{question}" not in written.plain_prompt:
        raise FieldError("plain_prompt", written.plain_prompt, "a text with {question}")
    if not written.questions:
        raise FieldError("questions", [], "one or more")
    ids = [question.id for question in written.questions]
    for place, name in enumerate(ids):
        if name in ids[:place]:
            raise FieldError(f"questions[{place}].id", name, "one that no other question has")
    return QuestionSet(
        questions=tuple(
            _question(each, f"questions[{place}]") for place, each in enumerate(written.questions)
        ),
        plain_prompt=written.plain_prompt,
        plain_stop_strings=written.plain_stop_strings,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _question(written: _WrittenQuestion, field: str) -> Question:
    if not 1 <= written.enough <= len(written.ideas):
        expected = f"1 to {len(written.ideas)}, the number of ideas"
        raise FieldError(f"{field}.enough", written.enough, expected)
    ideas = tuple(
        Idea(idea.name, _pattern(idea.pattern, f"{field}.ideas[{place}].pattern"))
        for place, idea in enumerate(written.ideas)
    )
    return Question(id=written.id, text=written.text, ideas=ideas, enough=written.enough)


def _pattern(text: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE | re.ASCII)
    except re.error as error:
        raise FieldError(field, text, f"a regular expression ({error})") from error
