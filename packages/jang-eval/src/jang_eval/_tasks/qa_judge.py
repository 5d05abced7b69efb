"""The verdict on one answer.

The sound text of an answer is what the failure modes' detectors leave of it; in it, the question's
ideas are looked for.

* correct: enough of the ideas are there, and nothing failed;
* partial: an idea is there, but too few are, or the answer fell into a failure mode;
* broken: no idea is there; the failure mode says how, and is `wrong answer` where no other fits.

Being there is all that is asked: "not Paris" counts as Paris. Six questions tell a model that works
from one that does not; they do not rank models that work.
"""

from dataclasses import dataclass
from enum import StrEnum

from jang_eval._tasks.qa_failure_modes import FailureMode, examine
from jang_eval._tasks.qa_questions import Question


class Verdict(StrEnum):
    """How good an answer is."""

    CORRECT = "correct"
    PARTIAL = "partial"
    BROKEN = "broken"


@dataclass(frozen=True)
class Judgement:
    """The verdict, the failure mode if there is one, and the names of the ideas found."""

    verdict: Verdict
    failure_mode: FailureMode | None
    ideas_found: tuple[str, ...]


def judge(answer: str, question: Question) -> Judgement:
    """Judges an answer by the rules of this module."""
    examination = examine(answer, question.text)
    found = tuple(
        idea.name for idea in question.ideas if idea.pattern.search(examination.sound_text)
    )
    if not found:
        return Judgement(Verdict.BROKEN, examination.mode or FailureMode.WRONG_ANSWER, found)
    if examination.mode is None and len(found) >= question.enough:
        return Judgement(Verdict.CORRECT, None, found)
    return Judgement(Verdict.PARTIAL, examination.mode, found)
