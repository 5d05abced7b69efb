"""The command `reference`."""

from pathlib import Path
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
    InFlightOption,
    TargetOption,
    TimeoutOption,
    bytes_of,
)
from jang_eval._commands.running import check_in_flight, show_progress
from jang_eval._commands.windows import (
    ConventionOption,
    MostOption,
    StrideOption,
    WindowOption,
    whole_windows,
)
from jang_eval._errors import OptionError
from jang_eval._hub import local_texts
from jang_eval._prompts import read_prompts
from jang_eval._reference.file import FULL
from jang_eval._reference.making import reference_of_prompts, reference_of_texts
from jang_eval._reference.reader import ReferenceFile
from jang_eval._reference.writing import write_reference
from jang_eval._target import Target
from jang_eval._windows import Convention


def reference(
    target: TargetOption,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file; an interrupted run goes on where it was.",
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE|hub:ID", help="A text, for `kl`, as `kl` takes it."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Or prompts, one a line, for `logit-mse`."),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            metavar="f16|top-k:K",
            help="All logits in 16 bits, or the K most likely tokens and what is left for others.",
        ),
    ] = "f16",
    max_size: Annotated[
        float, typer.Option(metavar="GB", help="The most that the file may have.")
    ] = 10.0,
    convention: ConventionOption = Convention.STRIDED,
    window: WindowOption = None,
    stride: StrideOption = None,
    windows: MostOption = None,
    in_flight: InFlightOption = 2,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Store what a server says of texts or prompts, so that it need not be asked again."""
    access = read_access(tls, tls_ca, tls_cert, tls_key, token_file)
    if (prompts is None) == (not data):
        raise OptionError("reference: found both or none, expected either --data or --prompts")
    if prompts is not None and keep != FULL:
        raise OptionError(f"keep: found {keep!r}, expected {FULL} for prompts")
    max_bytes = bytes_of(max_size)
    check_in_flight(in_flight)
    with Target(target, timeout=timeout, access=access) as server:
        if prompts is None:
            cutting = whole_windows(convention, window, stride, windows)
            with local_texts(data or []) as found:
                header, make = reference_of_texts(server, found.paths, keep, cutting)
        else:
            header, make = reference_of_prompts(server, read_prompts(prompts), keep)
        with show_progress("reference") as show:
            write_reference(
                header, make, output, max_bytes=max_bytes, in_flight=in_flight, on_progress=show
            )
    count = sum(each.scored for each in header.windows)
    loss = ReferenceFile(output).loss().described(count)
    typer.echo(f"wrote {output}, {output.stat().st_size / 1e6:,.1f} MB; by storing: {loss}")
