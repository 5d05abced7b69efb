"""Every answer to the questions of `qa`, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jang_eval._evaluation import EvaluationResult

_TASK: Final = "qa"


@dataclass(frozen=True)
class Answer:
    """What one model said, and what that is worth; `failure_mode` is empty if nothing failed."""

    model: str
    verdict: str
    failure_mode: str
    answer: str


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and every model's answer, in the order of the models."""

    id: str
    question: str
    answers: tuple[Answer, ...]


def side_by_side(results: Sequence[tuple[str, EvaluationResult]]) -> tuple[AnsweredQuestion, ...]:
    """Puts answers beside each other; none of tasks whose answers are too many to read.

    Args:
        results: Of one task, with the same questions in the same order, each with its model's
            label.
    """
    if results[0][1].task != _TASK:
        return ()
    labels = [label for label, _ in results]
    return tuple(
        AnsweredQuestion(
            id=outcomes[0].id,
            question=outcomes[0].texts.get("question", outcomes[0].id),
            answers=tuple(
                Answer(
                    model=label,
                    verdict=outcome.texts.get("verdict", ""),
                    failure_mode=outcome.texts.get("failure mode", ""),
                    answer=outcome.texts.get("answer", ""),
                )
                for label, outcome in zip(labels, outcomes, strict=True)
            ),
        )
        for outcomes in zip(*(result.outcomes for _, result in results), strict=True)
    )
