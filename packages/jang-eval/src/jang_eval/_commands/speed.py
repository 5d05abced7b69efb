"""The command `speed`."""

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
    DEFAULT_TIMEOUT,
    JsonOption,
    OutputOption,
    SeedOption,
    TargetOption,
    TimeoutOption,
)
from jang_eval._commands.running import run_and_print
from jang_eval._target import Target
from jang_eval._tasks.speed import Load, task


def speed(
    target: TargetOption,
    prompt_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens of the prompt of one stream.")
    ] = Load.prompt_tokens,
    decode_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens that each stream gets.")
    ] = Load.decode_tokens,
    streams: Annotated[
        int, typer.Option(metavar="N", help="Requests at a time, beside one alone.")
    ] = Load.streams,
    rounds: Annotated[
        int, typer.Option(metavar="N", help="How often everything is measured.")
    ] = Load.rounds,
    output: OutputOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Measure time to the first token, speeds, load time and memory of a server."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    load = Load(prompt_tokens, decode_tokens, streams, rounds)
    with Target(target, timeout=timeout, access=access) as server:
        asked = task(server, load, seed)
    # One at a time: a round has the server for itself.
    run_and_print(
        asked,
        target=target,
        access=access,
        timeout=timeout,
        in_flight=1,
        output=output,
        as_json=as_json,
    )
