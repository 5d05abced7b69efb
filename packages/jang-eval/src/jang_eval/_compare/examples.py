"""Questions that models answered differently, side by side."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from jang_eval._compare.charts import clean
from jang_eval._compare.overview import Run, TaskTable
from jang_eval._compare.paired import rightness
from jang_eval._evaluation import Outcome

_EXAMPLES_MAX: Final = 8
_CHARACTERS_MAX: Final = 800
# Shown as words.
_JUDGED: Final = ("correct", "passed")


def examples(table: TaskTable) -> str:
    """Up to eight questions that some model got wrong, those first on which models disagree most.

    Of those on which they disagree alike each group gives one in turn.
    """
    ranked: list[tuple[float, int, tuple[Outcome, ...]]] = []
    seen: Counter[tuple[float, str]] = Counter()
    for outcomes in zip(*(run.result.outcomes for run in table.runs), strict=True):
        rights = _rights(outcomes)
        if rights < len(outcomes):
            agreement = abs(rights / len(outcomes) - 0.5)
            ranked.append((agreement, seen[agreement, outcomes[0].group], outcomes))
            seen[agreement, outcomes[0].group] += 1
    # Sorting keeps the order of what is alike.
    ranked.sort(key=lambda each: each[:2])
    return "".join(_example(table.runs, outcomes) for _, _, outcomes in ranked[:_EXAMPLES_MAX])


def _rights(outcomes: Sequence[Outcome]) -> float:
    # What was not judged right or wrong is no failure.
    rights = [rightness(outcome) for outcome in outcomes]
    return sum(1.0 if right is None else right for right in rights)


def _example(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> str:
    first = outcomes[0]
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.texts))
    common = [
        name
        for name in names
        if len(outcomes) > 1 and len({outcome.texts.get(name) for outcome in outcomes}) == 1
    ]
    group = "" if first.group in first.id else f" ({first.group})"
    head = f"<summary>{clean(first.id + group)}: {_count(outcomes)}</summary>"
    asked = "".join(_text(name, first.texts[name]) for name in common)
    answers = "".join(
        f'<div class="answer"><h4>{clean(run.model.label)}: {_judged(outcome)}</h4>'
        + "".join(
            _text(name, outcome.texts[name])
            for name in names
            if name in outcome.texts and name not in common
        )
        + _numbers(outcome)
        + "</div>"
        for run, outcome in zip(runs, outcomes, strict=True)
    )
    return f'<details class="example">{head}{asked}<div class="answers">{answers}</div></details>'


def _count(outcomes: Sequence[Outcome]) -> str:
    right = sum(rightness(outcome) == 1 for outcome in outcomes)
    return f"{right} of {len(outcomes)} right"


def _judged(outcome: Outcome) -> str:
    correct = rightness(outcome)
    if correct is None:
        return "not judged"
    if 0 < correct < 1:
        return f"{correct:.2f} right"
    return '<span class="right">right</span>' if correct else '<span class="wrong">wrong</span>'


def _text(name: str, text: str) -> str:
    if len(text) > _CHARACTERS_MAX:
        left = len(text) - _CHARACTERS_MAX
        text = f"{text[:_CHARACTERS_MAX]}… ({left:,} more characters)"
    shown = clean(text) if text else "(empty)"
    return f'<p class="name">{clean(name)}</p><pre dir="auto">{shown}</pre>'


def _numbers(outcome: Outcome) -> str:
    shown = [f"{name} {value:g}" for name, value in outcome.numbers.items() if name not in _JUDGED]
    return f'<p class="note">{clean(", ".join(shown))}</p>' if shown else ""
