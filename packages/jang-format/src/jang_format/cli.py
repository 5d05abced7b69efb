"""The command `jang-format`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jang_format._convert import LayoutConversion, convert_layout
from jang_format._errors import JangFormatError
from jang_format._layouts import LAYOUTS, LayoutName
from jang_format._reader import read_directory
from jang_format._summary import Summary, summarize
from jang_format._validate import Validation, validate
from jang_format._version import __version__
from jang_format.terminal import byte_progress, print_json, user_errors

app = typer.Typer(
    help="Read, check, convert and compare JANG directories: no MLX needed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A model directory, in either layout.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_MOST_LISTED = 50


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jang-format {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Read, check, convert and compare JANG directories: no MLX needed."""


@app.command(epilog="Example: jang-format inspect ./smollm2-4M --plot bits.png")
def inspect(
    directory: DirectoryArgument,
    as_json: JsonOption = False,
) -> None:
    """Say what a directory holds: parameters, bits and bytes by role."""
    with user_errors(JangFormatError):
        summary = summarize(read_directory(directory))
    if as_json:
        print_json(summary.as_dict())
    else:
        _print_summary(directory, summary)


@app.command("validate", epilog="Example: jang-format validate ./smollm2-4M")
def validate_command(
    directory: DirectoryArgument,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not read the tensors: no digests, no NaN.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Hold a directory against every rule of the format and list all problems.

    Exit status 0: no errors; 1: errors.
    """
    with user_errors(JangFormatError), byte_progress("reading") as show:
        validation = validate(
            directory,
            read_data=not headers_only,
            on_progress=lambda progress: show(progress.done, progress.total, ""),
        )
    if as_json:
        print_json(validation.as_dict())
    else:
        _print_validation(validation)
    if not validation.valid:
        raise typer.Exit(1)


@app.command(epilog="Example: jang-format convert ./old-blocks ./for-mlx --layout mlx")
def convert(
    directory: DirectoryArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to make.")],
    layout: Annotated[LayoutName, typer.Option("--layout", help="The layout to write.")],
    requantize: Annotated[
        bool,
        typer.Option(
            "--requantize", help="Change modules that the layout cannot hold as they are."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a directory in another layout, or in today's form of its own."""
    with user_errors(JangFormatError), byte_progress("converting") as show:
        conversion = convert_layout(
            read_directory(directory),
            out,
            LAYOUTS[layout],
            requantize=requantize,
            on_progress=lambda progress: show(progress.done, progress.total, progress.path),
        )
    if as_json:
        print_json(conversion.as_dict())
    else:
        _print_conversion(conversion)


def _print_summary(directory: Path, summary: Summary) -> None:
    typer.echo(
        f"{directory}: {summary.architecture}, {summary.profile}, {summary.layout} layout, "
        f"{summary.parameters / 1e6:,.1f} M parameters, {summary.weight_bytes / 1e6:,.1f} MB, "
        f"{summary.bits_per_weight:.3f} bits per weight (embeddings included; "
        f"{summary.bits_per_weight_without_embeddings:.3f} without embeddings and head)"
    )
    table = Table()
    for heading in ("role", "bits", "group", "modules", "parameters", "bytes"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for row in summary.rows:
        table.add_row(
            row.role,
            str(row.bits or ("mixed" if row.group_size else "-")),
            str(row.group_size or "-"),
            str(row.modules),
            f"{row.parameters:,}",
            f"{row.nbytes:,}",
        )
    Console().print(table)


def _print_validation(validation: Validation) -> None:
    for problem in validation.problems[:_MOST_LISTED]:
        typer.echo(
            f"{problem.severity}: {problem.file}: {problem.field}: "
            f"found {problem.found}, expected {problem.expected}"
        )
    if len(validation.problems) > _MOST_LISTED:
        typer.echo(f"… {len(validation.problems) - _MOST_LISTED} more; --json lists them all")
    errors = sum(problem.severity == "error" for problem in validation.problems)
    warnings = len(validation.problems) - errors
    digests = "digests checked" if validation.digests_checked else "no digests checked"
    typer.echo(
        f"{validation.directory}: {'valid' if validation.valid else 'not valid'}: {errors} errors, "
        f"{warnings} warnings, {validation.tensors} tensors, {digests}"
    )


def _print_conversion(conversion: LayoutConversion) -> None:
    typer.echo(
        f"wrote {conversion.out}: {conversion.layout} layout, {conversion.modules} quantized "
        f"modules, {conversion.weight_bytes:,} bytes of weights (from "
        f"{conversion.source_bytes:,}), {conversion.seconds:.1f} s"
    )
    if conversion.requantized:
        typer.echo(f"requantized: {len(conversion.requantized)}, {conversion.requantized[0]} …")


if __name__ == "__main__":
    app()
