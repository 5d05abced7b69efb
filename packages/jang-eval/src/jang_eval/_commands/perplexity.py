"""The command `perplexity`."""

from dataclasses import replace

from jang_eval._commands.options import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT,
    InFlightOption,
    JsonOption,
    OutputOption,
    SeedOption,
    TargetOption,
    TimeoutOption,
)
from jang_eval._commands.running import run_and_print
from jang_eval._commands.windows import (
    ConventionOption,
    MostOption,
    StrideOption,
    TextsOption,
    WindowOption,
    windowing,
)
from jang_eval._hub import local_texts
from jang_eval._target import Target
from jang_eval._tasks.perplexity import task
from jang_eval._windows import Convention


def perplexity(
    target: TargetOption,
    data: TextsOption,
    convention: ConventionOption = Convention.STRIDED,
    window: WindowOption = None,
    stride: StrideOption = None,
    windows: MostOption = None,
    output: OutputOption = None,
    in_flight: InFlightOption = DEFAULT_IN_FLIGHT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure the perplexity of texts by token, word and byte."""
    cutting = windowing(convention, window, stride, windows)
    with local_texts(data) as found, Target(target, timeout=timeout) as server:
        asked = task(server, found.paths, cutting, seed)
    run_and_print(
        replace(asked, data_source=found.source),
        target=target,
        timeout=timeout,
        in_flight=in_flight,
        output=output,
        as_json=as_json,
    )
