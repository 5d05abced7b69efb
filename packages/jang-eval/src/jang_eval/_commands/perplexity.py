"""The command `perplexity`."""

from dataclasses import replace

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
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Measure the perplexity of texts by token, word and byte."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    cutting = windowing(convention, window, stride, windows)
    with local_texts(data) as found, Target(target, timeout=timeout, access=access) as server:
        asked = task(server, found.paths, cutting, seed)
    run_and_print(
        replace(asked, data_source=found.source),
        target=target,
        access=access,
        timeout=timeout,
        in_flight=in_flight,
        output=output,
        as_json=as_json,
    )
