"""The task `mmlu`: multiple choice over 57 subjects, asked as lm-evaluation-harness does.

By likelihood, the model reads a question that ends in "Answer:", and chooses the letter that it
holds for the most likely next (task `mmlu` of lm-evaluation-harness, version 1). By generation, it
writes on from there, and the letter is looked for in the first line of what it wrote.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

from jang_eval._cutting import prompt, score
from jang_eval._errors import OptionError
from jang_eval._evaluation import Item, Metric, Outcome, Task
from jang_eval._statistics import wilson
from jang_eval._target import Target
from jang_eval._tasks.mmlu_data import LETTERS, Question, Subject, categories, draw, read_mmlu

# Raised whenever the same model could come to other numbers from the same data.
#   2: what is longer than the model's context is cut from the left, by generation with room for the
#      whole answer.
TASK_VERSION: Final = 2

By: TypeAlias = Literal["likelihood", "generation"]

SHOTS_MAX: Final = 5
# Of an outcome: tokens that were cut off its prompt, where there were any.
_CUT: Final = "tokens cut"
_SUBSET = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_MAX_TOKENS: Final = 32
# A letter alone, or first in the line and set off from what follows ("B. Paris", "(b)"), or after
# "answer is", "answer:" or "option". "A dog" begins with no letter of choice.
_WRITTEN_LETTER = re.compile(
    r"(?:^|\b(?:answer|option)(?: is)?\b)[\s:(\[\"'*]*([A-D])(?=\s*$|[.:),;\]\"'*])", re.IGNORECASE
)


def task(
    data: Path,
    *,
    shots: int,
    by: By,
    subset: str | None,
    seed: int,
    as_chat: bool = False,
) -> Task:
    """Makes the task of data in a directory.

    Args:
        data: Has `test/*.csv` and, for shots, `dev/*.csv`.
        shots: How many questions with their answers stand before each, 0 to 5.
        by: How the answer is taken.
        subset: So many subjects and so many questions of each, such as "10x5"; all if None.
        seed: Of the draw.
        as_chat: Puts what is asked into a message of a user, by the model's chat template; the
            shots and the question are one message. By generation only.

    Raises:
        OptionError: `shots` or `subset` is out of range, or `as_chat` is by likelihood.
        DataError: The data cannot be read.
    """
    if not 0 <= shots <= SHOTS_MAX:
        raise OptionError(f"shots: found {shots}, expected 0 to {SHOTS_MAX}")
    size = None if subset is None else _parsed(subset)
    questions = read_mmlu(data, shots)
    settings = {
        "shots": str(shots),
        "by": by,
        # Before any are drawn: of those that have a file.
        "subjects": f"{len(questions.subjects)} of {len(categories())}",
        "subset": subset or "all",
    }
    if size is not None:
        questions = draw(questions, *size, seed)
        settings["seed"] = str(seed)
    if as_chat and by != "generation":
        raise OptionError(f"chat-template: found it by {by}, expected it by generation")
    if as_chat:
        # Results from before it was there have no such setting.
        settings["chat template"] = "yes"
    asks = {"likelihood": ask_by_likelihood, "generation": ask_by_generation}
    return Task(
        name="mmlu",
        version=TASK_VERSION,
        data_sha256=questions.sha256,
        settings=settings,
        items=[
            Item(question.id, subject.name, (subject, question))
            for subject in questions.subjects
            for question in subject.asked
        ],
        ask=ask_in_chat if as_chat else asks[by],
        aggregate=partial(aggregate, by=by),
    )


def _parsed(subset: str) -> tuple[int, int]:
    match = _SUBSET.fullmatch(subset)
    if match is None:
        expected = "subjects x questions such as 10x5"
        raise OptionError(f"subset: found {subset!r}, expected {expected}")
    return int(match[1]), int(match[2])


def build_prompt(subject: Subject, question: Question) -> str:
    """What the model reads: what it is about, the shots, and the question up to "Answer:"."""
    about = subject.name.replace("_", " ")
    parts = [f"The following are multiple choice questions (with answers) about {about}."]
    parts += [f"{_asked(each)} {LETTERS[each.answer]}" for each in subject.shown]
    return "\n\n".join([*parts, _asked(question)])


def _asked(question: Question) -> str:
    choices = zip(LETTERS, question.choices, strict=True)
    # Of the question alone, and not of the choices, outer spaces are taken off.
    lines = [question.text.strip(), *(f"{letter}. {choice}" for letter, choice in choices)]
    return "\n".join([*lines, "Answer:"])


def ask_by_likelihood(target: Target, item: Item) -> Outcome:
    """Chooses the most likely of the four letters; of equally likely ones the first."""
    subject, question = item.content
    found = score(target, build_prompt(subject, question), [f" {letter}" for letter in LETTERS])
    logprobs = tuple(each.logprob for each in found.scores)
    chosen = logprobs.index(max(logprobs))
    return _outcome(item, question, chosen, {}, {"logprobs": logprobs}, found.cut)


def ask_by_generation(target: Target, item: Item) -> Outcome:
    """Has the model write a line, at temperature 0, and looks for a letter in it."""
    subject, question = item.content
    asked, cut = prompt(target, build_prompt(subject, question), _MAX_TOKENS)
    written = target.complete_text(
        asked, stop_strings=["\n"], max_tokens=_MAX_TOKENS, temperature=0.0
    ).text
    return _outcome(item, question, written_choice(written), {"written": written}, {}, cut)


def ask_in_chat(target: Target, item: Item) -> Outcome:
    """As `ask_by_generation`, as a message of a user.

    Answers of chat models may begin with an empty line, so no line end stops them.
    """
    subject, question = item.content
    text = target.apply_chat_template([("user", build_prompt(subject, question))])
    # The template has put in what belongs there.
    asked, cut = prompt(target, text, _MAX_TOKENS, add_special_tokens=False)
    written = target.complete_text(
        asked,
        stop_strings=(),
        max_tokens=_MAX_TOKENS,
        temperature=0.0,
        add_special_tokens=False,
    ).text
    return _outcome(item, question, written_choice(written), {"written": written}, {}, cut)


def written_choice(text: str) -> int | None:
    """The place of the choice that the first line of a text names; None where it names none."""
    match = _WRITTEN_LETTER.search(text.strip().split("\n")[0])
    return None if match is None else LETTERS.index(match[1].upper())


def _outcome(
    item: Item,
    question: Question,
    chosen: int | None,
    texts: dict[str, str],
    arrays: dict[str, tuple[float, ...]],
    cut: int,
) -> Outcome:
    numbers = {"correct": float(chosen == question.answer)}
    if cut:
        numbers[_CUT] = float(cut)
    texts = {
        "question": question.text.strip(),
        "expected": _choice(question, question.answer),
        **texts,
    }
    if chosen is not None:
        numbers["chosen"] = float(chosen)
        texts["answer"] = _choice(question, chosen)
    return Outcome(item.id, item.group, numbers, texts, arrays)


def _choice(question: Question, place: int) -> str:
    return f"{LETTERS[place]}. {question.choices[place]}"


def aggregate(outcomes: Sequence[Outcome], by: By) -> list[Metric]:
    """Shares of right answers: of all questions, of each category, of each subject.

    Each question counts alike, so that of several subjects it is the mean weighted by their size.
    """
    metrics = [_accuracy("accuracy", outcomes)]
    if by == "generation":
        metrics.append(_share("answered", outcomes, lambda outcome: "chosen" in outcome.numbers))
    cut = sum(_CUT in outcome.numbers for outcome in outcomes)
    if cut:
        metrics.append(Metric("prompts cut", float(cut), None, "prompts", "", len(outcomes)))
    of_category = categories()
    for category in dict.fromkeys(of_category.values()):
        group = [outcome for outcome in outcomes if of_category[outcome.group] == category]
        if group:
            metrics.append(_accuracy(f"category accuracy/{category}", group))
    for subject in dict.fromkeys(outcome.group for outcome in outcomes):
        group = [outcome for outcome in outcomes if outcome.group == subject]
        metrics.append(_accuracy(f"accuracy/{subject}", group))
    return metrics


def _accuracy(name: str, outcomes: Sequence[Outcome]) -> Metric:
    return _share(name, outcomes, lambda outcome: outcome.numbers["correct"] == 1)


def _share(name: str, outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> Metric:
    successes, count = sum(map(holds, outcomes)), len(outcomes)
    return Metric(name, successes / count, wilson(successes, count), "", "higher", count)
