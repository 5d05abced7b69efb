"""The command `logit-mse`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from jang_eval._access import read_access
from jang_eval._commands.access import (
    ReferenceTlsCaOption,
    ReferenceTlsCertOption,
    ReferenceTlsKeyOption,
    ReferenceTlsOption,
    ReferenceTokenFileOption,
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
    ReferenceOption,
    SeedOption,
    TargetOption,
    TimeoutOption,
    is_reference_file,
)
from jang_eval._commands.running import run_and_print
from jang_eval._errors import OptionError
from jang_eval._prompts import read_prompts
from jang_eval._reference.protocols import PromptReference
from jang_eval._reference.reader import ReferenceFile
from jang_eval._reference.served import ServerReference
from jang_eval._target import Target
from jang_eval._tasks.logit_mse import task


def logit_mse(
    target: TargetOption,
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="Prompts, one a line; empty lines do not count.")
    ],
    reference: ReferenceOption,
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
    reference_tls: ReferenceTlsOption = False,
    reference_tls_ca: ReferenceTlsCaOption = None,
    reference_tls_cert: ReferenceTlsCertOption = None,
    reference_tls_key: ReferenceTlsKeyOption = None,
    reference_token_file: ReferenceTokenFileOption = None,
) -> None:
    """Compare logits with a reference's on prompts, one a line of the data."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    reference_access = read_access(
        reference_tls,
        reference_tls_ca,
        reference_tls_cert,
        reference_tls_key,
        reference_token_file,
        prefix="reference_",
    )
    prompts = read_prompts(data)
    with ExitStack() as stack:
        server = stack.enter_context(Target(target, timeout=timeout, access=access))
        known: PromptReference
        if is_reference_file(reference):
            known = _of_prompts(Path(reference))
        else:
            known = ServerReference(
                stack.enter_context(Target(reference, timeout=timeout, access=reference_access))
            )
        run_and_print(
            task(server, known, prompts, seed),
            target=target,
            access=access,
            timeout=timeout,
            in_flight=in_flight,
            output=output,
            as_json=as_json,
        )


def _of_prompts(path: Path) -> ReferenceFile:
    known = ReferenceFile(path)
    if known.header.windowing is not None:
        raise OptionError(
            f"reference: found {path} of texts, expected one that `reference --prompts` wrote"
        )
    return known
