"""What the commands of all packages share: errors in one line, and a bar for long work."""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from jang_format._errors import printable

__all__ = ["byte_progress", "count_progress", "plain_console", "print_json", "user_errors"]

Show = Callable[[int, int, str], None]


@contextmanager
def user_errors(*kinds: type[Exception]) -> Generator[None]:
    """Turn errors of these kinds into one line on stderr and exit status 2, Ctrl-C into 130."""
    try:
        yield
    except kinds as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("stopped", err=True)
        raise typer.Exit(130) from error


@contextmanager
def byte_progress(title: str) -> Generator[Show]:
    """A bar on stderr with bytes, speed and time left; give it done, total and a label."""
    with _progress(title, DownloadColumn(), TransferSpeedColumn()) as show:
        yield show


@contextmanager
def count_progress(title: str) -> Generator[Show]:
    """A bar on stderr with how many of how many, and time left."""
    with _progress(title, MofNCompleteColumn()) as show:
        yield show


@contextmanager
def _progress(title: str, *amounts: ProgressColumn) -> Generator[Show]:
    columns = (
        TextColumn(title),
        BarColumn(),
        *amounts,
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[label]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, label="")

        def show(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, label=escape(printable(label)))

        yield show


def plain_console(*, stderr: bool = False) -> Console:
    """A console that takes brackets in names for what they are, not for markup."""
    return Console(stderr=stderr, markup=False, highlight=False)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
