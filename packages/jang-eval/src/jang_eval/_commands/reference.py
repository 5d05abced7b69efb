"""The command `reference`."""

from pathlib import Path
from typing import Annotated

import typer

from jang_eval._commands.options import DEFAULT_TIMEOUT, TargetOption, TimeoutOption
from jang_eval._commands.running import show_progress
from jang_eval._commands.windows import (
    ConventionOption,
    MostOption,
    StrideOption,
    TextsOption,
    WindowOption,
    whole_windows,
)
from jang_eval._reference_file import Header, StoredWindow
from jang_eval._reference_reader import ReferenceFile
from jang_eval._reference_writing import write_reference
from jang_eval._target import Target
from jang_eval._windows import (
    Convention,
    check_fits,
    cut,
    read_texts,
    tokenize,
    tokens_digest,
)


def reference(
    target: TargetOption,
    data: TextsOption,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file; an interrupted run goes on where it was.",
        ),
    ],
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
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Store what a server says of a text, so that `kl` need not ask it again."""
    cutting = whole_windows(convention, window, stride, windows)
    with Target(target, timeout=timeout) as server:
        check_fits(server, cutting)
        texts, digest = read_texts(data)
        tokens = tokenize(server, texts)
        cuts = cut(tokens, cutting)
        header = Header(
            keep=keep,
            model=server.model_info(),
            data_sha256=digest,
            tokens=tokens_digest(tokens),
            windowing=cutting,
            windows=tuple(StoredWindow(each.id, each.scored) for each in cuts),
        )
        with show_progress("reference") as show:
            write_reference(
                server, header, cuts, output, max_bytes=round(max_size * 1e9), on_progress=show
            )
    count = sum(each.scored for each in cuts)
    loss = ReferenceFile(output).loss().described(count)
    typer.echo(f"wrote {output}, {output.stat().st_size / 1e6:,.1f} MB; by storing: {loss}")
