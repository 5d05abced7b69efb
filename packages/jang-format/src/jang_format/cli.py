"""The command `jang-format`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jang_format._convert import LayoutConversion, convert_layout
from jang_format._diff import Difference, diff
from jang_format._distance import ModuleDifference, ModuleSide
from jang_format._errors import JangFormatError, printable
from jang_format._layouts import LAYOUTS, LayoutName
from jang_format._plot import draw
from jang_format._reader import read_directory
from jang_format._summary import Summary, summarize
from jang_format._validate import Validation, validate
from jang_format._version import __version__
from jang_format.terminal import (
    byte_progress,
    count_progress,
    plain_console,
    print_json,
    user_errors,
)

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
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw bits and bytes of each module: .png, .svg."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a directory holds: parameters, bits and bytes by role."""
    with user_errors(JangFormatError):
        summary = summarize(read_directory(directory))
        if plot is not None:
            draw(summary, plot)
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


@app.command("diff", epilog="Example: jang-format diff ./smollm2-4M ./smollm2-3M")
def diff_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="A model directory.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, in either layout.")],
    as_json: JsonOption = False,
) -> None:
    """Say what differs between two directories, down to the distance of each module's values.

    Exit status 0: the same; 1: different.
    """
    with user_errors(JangFormatError), count_progress("comparing") as show:
        difference = diff(
            read_directory(a),
            read_directory(b),
            lambda progress: show(progress.done, progress.total, progress.path),
        )
    if as_json:
        print_json(difference.as_dict())
    else:
        _print_difference(difference)
    if not difference.same:
        raise typer.Exit(1)


def _print_summary(directory: Path, summary: Summary) -> None:
    typer.echo(
        f"{directory}: {printable(summary.architecture)}, {printable(summary.profile)}, "
        f"{summary.layout} layout, "
        f"{summary.parameters / 1e6:,.1f} M parameters, {summary.weight_bytes / 1e6:,.1f} MB, "
        f"{summary.bits_per_weight:.3f} bits per weight (embeddings included; "
        f"{summary.bits_per_weight_without_embeddings:.3f} without embeddings and head)"
    )
    table = Table()
    for heading in ("role", "bits", "group", "modules", "parameters", "bytes"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for row in summary.rows:
        table.add_row(
            printable(row.role),
            str(row.bits or ("mixed" if row.group_size else "-")),
            str(row.group_size or "-"),
            str(row.modules),
            f"{row.parameters:,}",
            f"{row.nbytes:,}",
        )
    plain_console().print(table)


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


def _print_difference(difference: Difference) -> None:
    # The table below says it of the modules.
    config = [change for change in difference.config if not change.key.startswith("quantization.")]
    lines = [
        f"{kind}{change.key}: {change.a or 'nothing'} -> {change.b or 'nothing'}"
        for kind, changes in (
            ("", difference.about),
            ("config.json ", config),
            ("manifest ", difference.manifest),
        )
        for change in changes
    ]
    for side, only in (("A", difference.only_in_a), ("B", difference.only_in_b)):
        lines += [f"only in {side}: {n}" for n in (*only.modules, *only.tensors, *only.files)]
    lines += [f"{name}: different content" for name in difference.files]
    for line in lines[:_MOST_LISTED]:
        typer.echo(printable(line))
    if len(lines) > _MOST_LISTED:
        typer.echo(f"… {len(lines) - _MOST_LISTED} more; --json lists them all")
    changed = [module for module in difference.modules if not module.identical]
    if changed:
        plain_console().print(_module_table(changed))
    typer.echo(
        f"{'the same' if difference.same else 'different'}: {len(changed)} of "
        f"{len(difference.modules)} common modules differ"
    )


def _module_table(changed: list[ModuleDifference]) -> Table:
    table = Table()
    for heading in ("module", "A", "B", "relative RMS", "largest"):
        table.add_column(heading, justify="left" if heading == "module" else "right")
    for module in changed[:_MOST_LISTED]:
        table.add_row(
            printable(module.path),
            _storage(module.a),
            _storage(module.b),
            "-" if module.relative_rms is None else f"{module.relative_rms:.3g}",
            "-" if module.largest is None else f"{module.largest:.3g}",
        )
    if len(changed) > _MOST_LISTED:
        table.add_row(f"… {len(changed) - _MOST_LISTED} more; --json lists them all")
    return table


def _storage(side: ModuleSide) -> str:
    """How a module is stored, in a few characters: 4 bits g64, or F16."""
    return side.dtype if side.bits is None else f"{side.bits:.3g} bits g{side.group_size}"


if __name__ == "__main__":
    app()
