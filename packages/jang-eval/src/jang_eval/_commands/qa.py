"""The command `qa`."""

from typing import Annotated

import typer
from rich.console import Console

from jang_eval._access import read_access
from jang_eval._commands.access import (
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TlsOption,
    TokenFileOption,
)
from jang_eval._commands.options import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT,
    InFlightOption,
    JsonOption,
    OutputOption,
    QuestionsOption,
    TargetOption,
    TimeoutOption,
)
from jang_eval._commands.running import run_and_print
from jang_eval._target import Target
from jang_eval._tasks.qa import DEFAULT_MAX_TOKENS, check_max_tokens, task
from jang_eval._tasks.qa_questions import load_questions, read_questions
from jang_eval._terminal import answers_table


def qa(
    target: TargetOption,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="The most tokens of one answer.")
    ] = DEFAULT_MAX_TOKENS,
    questions: QuestionsOption = None,
    output: OutputOption = None,
    in_flight: InFlightOption = DEFAULT_IN_FLIGHT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    as_json: JsonOption = False,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Ask six questions, or yours, and judge each answer: correct, partial or broken, and how."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    check_max_tokens(max_tokens)
    asked = load_questions() if questions is None else read_questions(questions)
    with Target(target, timeout=timeout, access=access) as server:
        judged = task(asked, server.model_info(), max_tokens=max_tokens)
    result = run_and_print(
        judged,
        target=target,
        access=access,
        timeout=timeout,
        in_flight=in_flight,
        output=output,
        as_json=as_json,
    )
    if not as_json:
        Console().print(answers_table(result.outcomes))
