"""The questions of the task `qa`, read from `_questions.toml` beside this module."""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


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
    data = resources.files("jang_eval").joinpath("_questions.toml").read_bytes()
    document = tomllib.loads(data.decode())
    return QuestionSet(
        questions=tuple(_question(entry) for entry in document["questions"]),
        plain_prompt=document["plain_prompt"],
        plain_stop_strings=tuple(document["plain_stop_strings"]),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _question(entry: dict[str, Any]) -> Question:
    ideas = tuple(
        Idea(idea["name"], re.compile(idea["pattern"], re.IGNORECASE | re.ASCII))
        for idea in entry["ideas"]
    )
    return Question(id=entry["id"], text=entry["text"], ideas=ideas, enough=entry["enough"])
