"""The task `qa`: six questions, or others, that tell a model that works from one that does not."""

from collections.abc import Callable

from jang_eval._errors import OptionError
from jang_eval._judge import judge
from jang_eval._questions import Question, QuestionSet, load_questions
from jang_eval._results import (
    TASK,
    JudgedAnswer,
    ModelInfo,
    QaResult,
    Settings,
    Totals,
)
from jang_eval._statistics import wilson
from jang_eval._target import Completion, Target
from jang_eval._version import __version__

# Raised whenever the same model could come to another verdict although the questions' data are the
# same: another rule or threshold of a failure mode or verdict, other sampling, another kind of
# prompt. Results of different versions are not compared. A change of `_questions.toml` changes the
# digest and needs no new version.
#   2: whitespace past all layout is text, so that an endless line end is a repetition loop.
TASK_VERSION = 2

DEFAULT_MAX_TOKENS = 64
DEFAULT_TIMEOUT = 120.0

_MAX_TOKENS_MAX = 2**32 - 1


def run_qa(
    target: str,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    timeout: float = DEFAULT_TIMEOUT,
    questions: QuestionSet | None = None,
    on_answer: Callable[[JudgedAnswer], None] | None = None,
) -> QaResult:
    """Asks the server all questions, one after the other at temperature 0, and judges the answers.

    Args:
        target: `HOST:PORT` of a JANG server.
        max_tokens: The most tokens of one answer.
        timeout: Seconds to wait for one answer.
        questions: What to ask; the package's six questions if None.
        on_answer: Called with each answer as soon as it is judged.

    Returns:
        The judged answers, with the model, the settings and the data's digest.

    Raises:
        TargetError: The address is none, or the server is unreachable, too slow, or refuses.
        OptionError: `max_tokens` or `timeout` is out of range.
    """
    if not 1 <= max_tokens <= _MAX_TOKENS_MAX:
        raise OptionError(f"max_tokens: found {max_tokens}, expected 1 to {_MAX_TOKENS_MAX}")
    settings = Settings(max_tokens=max_tokens, temperature=0.0)
    data = questions or load_questions()
    answers: list[JudgedAnswer] = []
    with Target(target, timeout=timeout) as server:
        model = server.model_info()
        for question in data.questions:
            answer = _judged(question, _ask(server, question, data, model, settings))
            answers.append(answer)
            if on_answer is not None:
                on_answer(answer)
    return QaResult(
        task=TASK,
        task_version=TASK_VERSION,
        data_sha256=data.sha256,
        jang_eval_version=__version__,
        target=target,
        settings=settings,
        model=model,
        answers=tuple(answers),
        totals=(totals := Totals.of(answers)),
        correct_interval=wilson(totals.correct, totals.questions),
    )


def _ask(
    server: Target, question: Question, data: QuestionSet, model: ModelInfo, settings: Settings
) -> Completion:
    if model.has_chat_template:
        return server.complete_chat(
            question.text, max_tokens=settings.max_tokens, temperature=settings.temperature
        )
    return server.complete_text(
        data.plain_prompt.replace("{question}", question.text),
        stop_strings=data.plain_stop_strings,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
    )


def _judged(question: Question, completion: Completion) -> JudgedAnswer:
    judgement = judge(completion.text, question)
    return JudgedAnswer(
        id=question.id,
        question=question.text,
        answer=completion.text,
        verdict=judgement.verdict,
        failure_mode=judgement.failure_mode,
        ideas_found=judgement.ideas_found,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        seconds=completion.seconds,
    )
