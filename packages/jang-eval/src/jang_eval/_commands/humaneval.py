"""The command `humaneval`."""

from collections import Counter
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
from jang_eval._errors import OptionError, SandboxError
from jang_eval._hub import HUMANEVAL, local_data
from jang_eval._sandbox import Sandbox, find_sandbox, find_weak_sandbox
from jang_eval._tasks.humaneval import Sampling, task


def humaneval(
    target: TargetOption,
    data: DataOption,
    allow_code_execution: Annotated[
        bool,
        typer.Option("--allow-code-execution", help="Run what the model writes, in a sandbox."),
    ] = False,
    weak_sandbox: Annotated[
        bool,
        typer.Option(
            "--weak-sandbox",
            help="Where there is no sandbox, run it with limits of time and memory alone: it can "
            "then use the network, and read and write what you can.",
        ),
    ] = False,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Answers to each problem, for pass@k.")
    ] = 1,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="0 for the most likely answer; more for samples.")
    ] = 0.0,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N problems.")
    ] = None,
    seed: SeedOption = 0,
    in_flight: InFlightOption = DEFAULT_IN_FLIGHT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = None,
    as_json: JsonOption = False,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Have Python functions completed, and run their tests: pass@1 and pass@k."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    if not allow_code_execution:
        raise OptionError(
            "humaneval runs code that the model writes: found no --allow-code-execution, expected "
            "it if you want that"
        )
    sampling = Sampling(samples=samples, temperature=temperature, seed=seed)
    sandbox = choose_sandbox(weak_sandbox)
    with local_data(data, HUMANEVAL) as found:
        chosen = task(found.path, sandbox, sampling=sampling, limit=limit)
    typer.echo(sandbox.description, err=True)
    result = run_and_print(
        replace(chosen, data_source=found.source),
        target=target,
        access=access,
        timeout=timeout,
        in_flight=in_flight,
        output=output,
        as_json=as_json,
    )
    failures = Counter(outcome.texts["failure"] for outcome in result.outcomes)
    del failures[""]
    if failures:
        kinds = ", ".join(f"{kind} {count}" for kind, count in failures.most_common())
        typer.echo(f"failures: {kinds}", err=True)


def choose_sandbox(weak_allowed: bool) -> Sandbox:
    """The best that is to be had; the weak one only where it is allowed.

    Raises:
        SandboxError: There is none.
    """
    try:
        return find_sandbox()
    except SandboxError as error:
        if not weak_allowed:
            raise SandboxError(
                f"no sandbox for the model's code here ({error}); --weak-sandbox runs it with "
                "limits alone"
            ) from error
    return find_weak_sandbox()
