"""The questions of MMLU, read from CSV files in the forms in which they are published.

The data (Hendrycks et al. 2021, arXiv:2009.03300) are a directory with `dev/SUBJECT_dev.csv`, five
questions to show how it is done, and `test/SUBJECT_test.csv`. A row is the question, four choices
and the answer: a letter where the file has no header, as in hendrycks/test, or a number from 0
where its first row is `question,choice0,choice1,choice2,choice3,answer`.
"""

import csv
import hashlib
import io
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

from jang_eval._errors import DataError, OptionError

LETTERS: Final = ("A", "B", "C", "D")

_HEADER: Final = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
_NUMBERS: Final = ("0", "1", "2", "3")

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Question:
    """A question; `answer` is the place of the right one of four choices.

    `id` is the subject and the place among all questions of its file, from 0.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Subject:
    """A subject's questions, and those that are shown with their answers before each of them."""

    name: str
    shown: tuple[Question, ...]
    asked: tuple[Question, ...]


@dataclass(frozen=True)
class Mmlu:
    """Subjects in the order of their names, and the sha256 of what was read of them."""

    subjects: tuple[Subject, ...]
    sha256: str


@cache
def categories() -> Mapping[str, str]:
    """The category of each subject."""
    data = resources.files("jang_eval").joinpath("_tasks/mmlu_categories.toml").read_bytes()
    return {
        subject: category
        for category, subjects in tomllib.loads(data.decode()).items()
        for subject in subjects
    }


def read_mmlu(directory: Path, shots: int) -> Mmlu:
    """Reads every subject that has a file in `test`, and as many of its `dev` as are shown.

    Raises:
        DataError: A file is missing or is not in a form that is published.
    """
    if not (directory / "test").is_dir():
        raise DataError(
            f"{directory}: found no directory {directory / 'test'}, expected MMLU's CSV files "
            "in test/ and dev/, or hub:cais/mmlu"
        )
    names = sorted(
        path.name.removesuffix("_test.csv") for path in (directory / "test").glob("*_test.csv")
    )
    if not names:
        raise DataError(f"{directory / 'test'}: found no file, expected such as anatomy_test.csv")
    digest = hashlib.sha256()

    def take(name: str, split: str, at_least: int) -> tuple[Question, ...]:
        file = directory / split / f"{name}_{split}.csv"
        data = _bytes(file)
        digest.update(f"{split}/{file.name} {len(data)}\n".encode() + data)
        questions = _questions(name, file, data)
        if len(questions) < at_least:
            raise DataError(f"{file}: found {len(questions)} questions, expected {at_least}")
        return questions

    subjects: list[Subject] = []
    for name in names:
        if name not in categories():
            raise DataError(f"{directory / 'test'}: found subject {name!r}, expected MMLU's")
        shown = take(name, "dev", shots)[:shots] if shots else ()
        subjects.append(Subject(name, shown, take(name, "test", 1)))
    return Mmlu(tuple(subjects), digest.hexdigest())


def draw(data: Mmlu, subjects: int, questions: int, seed: int) -> Mmlu:
    """Draws subjects, and so many questions of each; they stay in their order.

    Drawn is what has the lowest sha256 of seed and name, so that no other version of a library
    draws something else. What a smaller draw of the same seed takes, a larger one takes too.

    Raises:
        OptionError: The data do not have so many.
    """
    if len(data.subjects) < subjects:
        raise OptionError(f"subset: found {subjects} subjects, expected 1 to {len(data.subjects)}")
    chosen = _lots(data.subjects, subjects, seed, lambda subject: subject.name)
    for subject in chosen:
        if len(subject.asked) < questions:
            expected = f"1 to {len(subject.asked)}, as {subject.name} has"
            raise OptionError(f"subset: found {questions} questions, expected {expected}")
    return Mmlu(
        tuple(
            replace(each, asked=_lots(each.asked, questions, seed, lambda question: question.id))
            for each in chosen
        ),
        data.sha256,
    )


def _lots(
    entries: Sequence[_Entry], count: int, seed: int, name: Callable[[_Entry], str]
) -> tuple[_Entry, ...]:
    def lot(place: int) -> bytes:
        return hashlib.sha256(f"{seed} {name(entries[place])}".encode()).digest()

    return tuple(entries[place] for place in sorted(sorted(range(len(entries)), key=lot)[:count]))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def _questions(subject: str, file: Path, data: bytes) -> tuple[Question, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: found bytes that are no UTF-8, expected text") from error
    try:
        # Line ends within a question stay as they are: models are asked with them.
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [row for row in lines if row]
    except csv.Error as error:
        raise DataError(f"{file}: found no CSV ({error}), expected it") from error
    has_header = rows[:1] == [_HEADER]
    answers = _NUMBERS if has_header else LETTERS
    return tuple(
        _question(f"{subject}/{place}", row, answers, file)
        for place, row in enumerate(rows[1:] if has_header else rows)
    )


def _question(name: str, row: list[str], answers: Sequence[str], file: Path) -> Question:
    where = f"{file}: question {name.rpartition('/')[2]}"
    if len(row) != len(_HEADER):
        expected = f"{len(_HEADER)}: question, four choices, answer"
        raise DataError(f"{where}: found {len(row)} columns, expected {expected}")
    text, *choices, answer = row
    if answer not in answers:
        raise DataError(f"{where}: found answer {answer!r}, expected one of {', '.join(answers)}")
    return Question(name, text, tuple(choices), answers.index(answer))
