"""The command `jang-format`."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jang_format._errors import JangFormatError
from jang_format._reader import read_directory
from jang_format._summary import Summary, summarize

app = typer.Typer(
    help="Read JANG directories: no MLX needed.", no_args_is_help=True, rich_markup_mode="rich"
)


@app.callback()
def main() -> None:
    """Keep `inspect` a subcommand while it is the only one."""


@contextmanager
def user_errors() -> Generator[None]:
    """Turn this package's errors into one line on stderr and exit status 2."""
    try:
        yield
    except JangFormatError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@app.command(epilog="Example: jang-format inspect ./smollm2-4M --json")
def inspect(
    directory: Annotated[Path, typer.Argument(help="A directory in MLX layout.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a model directory holds: parameters, bits and bytes by role."""
    with user_errors():
        summary = summarize(read_directory(directory))
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), indent=2))
    else:
        _print_summary(directory, summary)


def _print_summary(directory: Path, summary: Summary) -> None:
    typer.echo(
        f"{directory}: {summary.architecture}, {summary.profile}, "
        f"{summary.parameters / 1e6:,.1f} M parameters, {summary.weight_bytes / 1e6:,.1f} MB, "
        f"{summary.bits_per_weight:.3f} bits per weight (embeddings included)"
    )
    table = Table()
    for heading in ("role", "bits", "group", "modules", "parameters", "bytes"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for row in summary.rows:
        table.add_row(
            row.role,
            str(row.bits or "-"),
            str(row.group_size or "-"),
            str(row.modules),
            f"{row.parameters:,}",
            f"{row.nbytes:,}",
        )
    Console().print(table)


if __name__ == "__main__":
    app()
