"""The command `logit-mse`."""

from typing import Annotated

import typer

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
from jang_eval._target import Target
from jang_eval._tasks.logit_mse import read_prompts, task


def logit_mse(
    target: TargetOption,
    data: DataOption,
    reference: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The JANG server to compare with.")
    ],
    output: OutputOption = None,
    in_flight: InFlightOption = DEFAULT_IN_FLIGHT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare logits with a reference server's on prompts, one a line of the data."""
    prompts = read_prompts(data)
    with Target(reference, timeout=timeout) as known:
        run_and_print(
            task(known, prompts, seed),
            target=target,
            timeout=timeout,
            in_flight=in_flight,
            output=output,
            as_json=as_json,
        )
