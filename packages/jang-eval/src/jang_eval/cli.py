"""The command `jang-eval`.

A command prints its outcome on stdout and everything else on stderr. Mistakes of the user are
errors of this package; `_user_errors` around each command turns them into a line and exit status 2,
also where `app` is mounted in another typer app.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from jang_eval._commands.compare import compare
from jang_eval._commands.humaneval import humaneval
from jang_eval._commands.kl import kl
from jang_eval._commands.logit_mse import logit_mse
from jang_eval._commands.mmlu import mmlu
from jang_eval._commands.perplexity import perplexity
from jang_eval._commands.qa import qa
from jang_eval._commands.reference import reference
from jang_eval._commands.report import report
from jang_eval._commands.speed import speed
from jang_eval._errors import JangEvalError
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


app.command(epilog="Example: jang-eval qa --target localhost:50051 -o 4M.json")(_user_errors()(qa))
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
