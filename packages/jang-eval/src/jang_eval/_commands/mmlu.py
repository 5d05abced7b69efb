"""The command `jang-eval mmlu`."""

from dataclasses import replace
from typing import Annotated

import typer

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
    DataOption,
    InFlightOption,
    JsonOption,
    OutputOption,
    SeedOption,
    TargetOption,
    TimeoutOption,
)
from jang_eval._commands.running import run_and_print
from jang_eval._hub import MMLU, local_data
from jang_eval._tasks.mmlu import By, task


def mmlu(
    target: TargetOption,
    data: DataOption,
    shots: Annotated[
        int, typer.Option(metavar="N", help="How many answered questions stand before each.")
    ] = 5,
    by: Annotated[By, typer.Option(help="How the answer is taken.")] = "likelihood",
    chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template",
            help="By generation: ask as a user's message, by the model's template.",
        ),
    ] = False,
    subset: Annotated[
        str | None,
        typer.Option(metavar="SxQ", help="Only S subjects and Q questions of each, drawn by seed."),
    ] = None,
    seed: SeedOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    in_flight: InFlightOption = DEFAULT_IN_FLIGHT,
    output: OutputOption = None,
    as_json: JsonOption = False,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Ask multiple-choice questions of 57 subjects, as lm-evaluation-harness does."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    with local_data(data, MMLU) as found:
        asked = task(
            found.path, shots=shots, by=by, subset=subset, seed=seed, as_chat=chat_template
        )
    run_and_print(
        replace(asked, data_source=found.source),
        target=target,
        access=access,
        timeout=timeout,
        in_flight=in_flight,
        output=output,
        as_json=as_json,
    )
