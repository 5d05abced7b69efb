"""The command `jang-eval`.

A command prints its outcome on stdout and everything else on stderr. Mistakes of the user are
errors of this package; `_user_errors` around each command turns them into a line and exit status 2,
also where `app` is mounted in another typer app.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jang_eval._commands.compare import compare
from jang_eval._commands.humaneval import humaneval
from jang_eval._commands.kl import kl
from jang_eval._commands.logit_mse import logit_mse
from jang_eval._commands.mmlu import mmlu
from jang_eval._commands.perplexity import perplexity
from jang_eval._commands.reference import reference
from jang_eval._commands.report import report
from jang_eval._commands.speed import speed
from jang_eval._errors import JangEvalError
from jang_eval._qa import DEFAULT_MAX_TOKENS, DEFAULT_TIMEOUT, run_qa
from jang_eval._questions import read_questions
from jang_eval._report import answers_table, progress_line
from jang_eval._results import (
    JudgedAnswer,
    check_writable,
    result_document,
    write_result,
)
from jang_eval._version import __version__

app = typer.Typer(
    name="jang-eval",
    help="Judge language models served over the JANG gRPC API.",
    no_args_is_help=True,
)


@contextmanager
def _user_errors() -> Generator[None]:
    """The one place where an error becomes a message; works as a decorator of a command."""
    try:
        yield
    except JangEvalError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jang-eval {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Judge language models served over the JANG gRPC API."""


@app.command(epilog="Example: jang-eval qa --target localhost:50051 -o 4M.json")
@_user_errors()
def qa(
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The JANG server (jang-runtime serve).")
    ],
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="The most tokens of one answer.")
    ] = DEFAULT_MAX_TOKENS,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for one answer.")
    ] = DEFAULT_TIMEOUT,
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Questions of your own (TOML, see the README); default: six."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write the result as JSON."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON instead of a table.")
    ] = False,
) -> None:
    """Ask six questions, or yours, and judge each answer: correct, partial or broken, and how."""
    asked = None if questions is None else read_questions(questions)
    if output is not None:
        check_writable(output)
    result = run_qa(
        target, max_tokens=max_tokens, timeout=timeout, questions=asked, on_answer=_log_answer
    )
    if output is not None:
        write_result(result, output)
        typer.echo(f"wrote {output}", err=True)
    if as_json:
        _print_text(result_document(result))
    else:
        Console().print(answers_table(result))


app.command(epilog="Example: jang-eval compare 2L.json 4M.json --html comparison.html")(
    _user_errors()(compare)
)
app.command(epilog="Example: jang-eval perplexity --target localhost:50051 --data wiki.test.raw")(
    _user_errors()(perplexity)
)
app.command(epilog="Example: jang-eval mmlu --target localhost:50051 --data mmlu -o 4M.json")(
    _user_errors()(mmlu)
)
app.command(
    epilog="Example: jang-eval humaneval --target localhost:50051 --data HumanEval.jsonl.gz "
    "--allow-code-execution -o 4M-humaneval.json"
)(_user_errors()(humaneval))
app.command(
    epilog="Example: jang-eval kl --target localhost:50051 --reference localhost:50052 "
    "--data wiki.test.raw --windows 16"
)(_user_errors()(kl))
app.command(
    epilog="Example: jang-eval reference --target localhost:50052 --data wiki.test.raw "
    "--windows 16 -o reference.bin"
)(_user_errors()(reference))
app.command(
    epilog="Example: jang-eval logit-mse --target localhost:50051 --reference localhost:50052 "
    "--data prompts.txt"
)(_user_errors()(logit_mse))

app.command(epilog="Example: jang-eval speed --target localhost:50051 -o 4M-speed.json")(
    _user_errors()(speed)
)

app.command(
    epilog="Example: jang-eval report smollm2 --profiles 4M,3M,2S --work smollm2-report "
    "--mmlu mmlu --text wiki.test.raw"
)(_user_errors()(report))


def _log_answer(answer: JudgedAnswer) -> None:
    typer.echo(progress_line(answer), err=True)


def _print_text(text: str) -> None:
    # JSON is UTF-8 whatever the terminal is, and answers may be in any script.
    typer.echo(text.encode(), nl=False)
