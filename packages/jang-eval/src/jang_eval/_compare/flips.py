"""Answers that are others than the reference's (Dutta et al. 2024, arXiv:2407.09141).

Accuracy hides them where as many become right as become wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jang_eval._compare.paired import rightness
from jang_eval._evaluation import EvaluationResult, Outcome
from jang_eval._statistics import Interval, wilson


@dataclass(frozen=True)
class Share:
    """How many of all questions, and what share that is."""

    count: int
    value: float
    interval: Interval


@dataclass(frozen=True)
class Flips:
    """A model's answers beside the reference's to the same questions.

    Attributes:
        reference: Label of the reference.
        model: Label of the model.
        questions: All questions.
        changed: Another choice; where answers are no choices, another judgement.
        right_to_wrong: The reference was right, and the model is not.
        wrong_to_right: The reference was not right, and the model is.
    """

    reference: str
    model: str
    questions: int
    changed: Share
    right_to_wrong: Share
    wrong_to_right: Share


def flips(
    reference: tuple[str, EvaluationResult], model: tuple[str, EvaluationResult]
) -> Flips | None:
    """Counts changed answers; None where questions have no right answers, or several by one model.

    Args:
        reference: Label and result of the reference.
        model: The same of a model, with the same questions in the same order.
    """
    pairs = [
        (known, found)
        for known, found in zip(reference[1].outcomes, model[1].outcomes, strict=True)
        if rightness(known) is not None and rightness(found) is not None
    ]
    if not pairs or _has_samples([known for known, _ in pairs]):
        return None
    # Of choices another one is another answer, also where both are wrong.
    are_choices = any("chosen" in outcome.numbers for pair in pairs for outcome in pair)

    def answer(outcome: Outcome) -> float | None:
        return outcome.numbers.get("chosen") if are_choices else rightness(outcome)

    rights = [(rightness(known) == 1, rightness(found) == 1) for known, found in pairs]
    return Flips(
        reference[0],
        model[0],
        len(pairs),
        _share([answer(known) != answer(found) for known, found in pairs]),
        _share([before and not after for before, after in rights]),
        _share([after and not before for before, after in rights]),
    )


def _has_samples(outcomes: Sequence[Outcome]) -> bool:
    # Answers drawn at random differ whatever the model.
    drawn = [outcome.group for outcome in outcomes if "passed" in outcome.numbers]
    return len(set(drawn)) < len(drawn)


def _share(holds: Sequence[bool]) -> Share:
    count = sum(holds)
    return Share(count, count / len(holds), wilson(count, len(holds)))
