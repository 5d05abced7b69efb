"""The command `jang`: `run`, and the commands of the four packages."""

import sys
from typing import Annotated

import typer

import jang_eval.cli
import jang_format.cli
import jang_quant.cli
import jang_runtime.cli
from jang._prepare import directory_of
from jang_format.terminal import user_errors
from jang_quant import DEFAULT_PROFILE, JangQuantError, Request
from jang_runtime import GenerationRequest, JangRuntimeError, Sampling, Stopping
from jang_runtime.cli import open_engine
from jang_runtime.terminal import chat, describe_speed, prompt_for, quiet_libraries, write_answer

app = typer.Typer(
    help="Mixed-precision quantization for MLX: convert, run, serve and judge language models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(jang_format.cli.app, name="format")
app.add_typer(jang_quant.cli.app, name="quant")
app.add_typer(jang_runtime.cli.app, name="runtime")
app.add_typer(jang_eval.cli.app, name="eval")


@app.command(epilog='Example: jang run smollm2 "What is 2+2?"')
def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A directory, a GGUF file, a hub id, or the name smollm2."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="The question; without one, a conversation begins.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-p",
            help="Which bits each role gets, or JANG_2K to JANG_6K.",
            show_default=DEFAULT_PROFILE,
        ),
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option("--bits", "-b", help="Bits per weight in all, instead of a profile: 3.5."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", help="Most tokens of an answer.  [default: 512]"),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 takes the most likely token every time.")
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The same seed gives the same text.")
    ] = None,
) -> None:
    """Answer a question with a model, converting it first if need be.

    Converted models are kept under $JANG_HOME (default: ~/.cache/jang).
    """
    sampling = Sampling(temperature=temperature, seed=seed)
    stopping = Stopping(max_tokens=max_tokens)
    with user_errors(JangQuantError, JangRuntimeError):
        quiet_libraries()
        directory = directory_of(model, Request(profile, bits))
        with open_engine(directory) as engine:
            if prompt is None:
                chat(engine, sampling, stopping)
                return
            request = GenerationRequest(prompt_for(engine, prompt), sampling, stopping)
            answer = write_answer(engine, request, sys.stdout)
            typer.echo(describe_speed(answer.finished), err=True)


if __name__ == "__main__":
    app()
