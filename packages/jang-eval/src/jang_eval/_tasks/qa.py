"""The task `qa`: six questions, or others, that tell a model that works from one that does not."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from jang_eval._errors import OptionError
from jang_eval._evaluation import EvaluationResult, Item, Metric, Outcome, Task
from jang_eval._model_info import ModelInfo
from jang_eval._running import run_task
from jang_eval._server_answers import Completion
from jang_eval._statistics import wilson
from jang_eval._target import Target
from jang_eval._tasks.qa_judge import Verdict, judge
from jang_eval._tasks.qa_questions import Question, QuestionSet, load_questions

# Raised whenever the same model could come to another verdict although the questions' data are the
# same: another rule or threshold of a failure mode or verdict, other sampling, another kind of
# prompt. Results of different versions are not compared. A change of `qa_questions.toml` changes
# the digest and needs no new version.
#   2: whitespace past all layout is text, so that an endless line end is a repetition loop.
#   3: settings say whether it was asked as a conversation or in plain text.
TASK_VERSION: Final = 3

DEFAULT_MAX_TOKENS: Final = 64

_MAX_TOKENS_MAX: Final = 2**32 - 1
_BETTER: Final = {Verdict.CORRECT: "higher", Verdict.PARTIAL: "", Verdict.BROKEN: "lower"}


def task(questions: QuestionSet, model: ModelInfo, *, max_tokens: int) -> Task:
    """The task, asked at temperature 0.

    Args:
        questions: What to ask.
        model: Who is asked: as a conversation if it has a chat template, else in plain text.
        max_tokens: The most tokens of one answer.

    Raises:
        OptionError: `max_tokens` is out of range.
    """
    check_max_tokens(max_tokens)
    is_chat = model.has_chat_template
    complete = complete_chat if is_chat else partial(complete_plain, questions)
    return Task(
        name="qa",
        version=TASK_VERSION,
        data_sha256=questions.sha256,
        settings={
            "max_tokens": str(max_tokens),
            "temperature": "0",
            "asked as": "chat" if is_chat else "plain",
        },
        items=[Item(question.id, "", question) for question in questions.questions],
        ask=partial(_ask, complete, max_tokens),
        aggregate=aggregate,
    )


def check_max_tokens(max_tokens: int) -> None:
    """Raise OptionError if the most tokens of one answer are out of range."""
    if not 1 <= max_tokens <= _MAX_TOKENS_MAX:
        raise OptionError(f"max_tokens: found {max_tokens}, expected 1 to {_MAX_TOKENS_MAX}")


def run_qa(
    target: str,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    timeout: float = 120.0,
    questions: QuestionSet | None = None,
) -> EvaluationResult:
    """Asks the server at `HOST:PORT` all questions, and judges the answers.

    Args:
        target: The server's address.
        max_tokens: The most tokens of one answer.
        timeout: Seconds to wait for one answer.
        questions: What to ask; the package's six questions if None.

    Raises:
        TargetError: The address is none, or the server is unreachable, too slow, or refuses.
        OptionError: `max_tokens` or `timeout` is out of range.
    """
    with Target(target, timeout=timeout) as server:
        asked = task(questions or load_questions(), server.model_info(), max_tokens=max_tokens)
        return run_task(asked, server)


def complete_chat(target: Target, question: Question, max_tokens: int) -> Completion:
    """Asks as a message of a user."""
    return target.complete_chat(question.text, max_tokens=max_tokens, temperature=0.0)


def complete_plain(
    questions: QuestionSet, target: Target, question: Question, max_tokens: int
) -> Completion:
    """Asks in plain text, which the model goes on with."""
    return target.complete_text(
        questions.plain_prompt.replace("{question}", question.text),
        stop_strings=questions.plain_stop_strings,
        max_tokens=max_tokens,
        temperature=0.0,
    )


def aggregate(outcomes: Sequence[Outcome]) -> list[Metric]:
    """The share of each verdict."""
    verdicts = [outcome.texts["verdict"] for outcome in outcomes]
    count = len(verdicts)
    return [
        Metric(verdict, number / count, wilson(number, count), "", better, count)
        for verdict, better in _BETTER.items()
        for number in [verdicts.count(verdict)]
    ]


def _ask(
    complete: Callable[[Target, Question, int], Completion],
    max_tokens: int,
    target: Target,
    item: Item,
) -> Outcome:
    question: Question = item.content
    completion = complete(target, question, max_tokens)
    judgement = judge(completion.text, question)
    mode = {"failure mode": str(judgement.failure_mode)} if judgement.failure_mode else {}
    return Outcome(
        item.id,
        item.group,
        numbers={
            "correct": float(judgement.verdict == Verdict.CORRECT),
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "generation_seconds": completion.seconds,
        },
        texts={
            "question": question.text,
            "answer": completion.text,
            "verdict": str(judgement.verdict),
            **mode,
            "ideas found": ", ".join(judgement.ideas_found),
            "finish_reason": completion.finish_reason,
        },
    )
