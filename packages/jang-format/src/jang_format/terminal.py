"""What the commands of all packages share: errors in one line, and how far long work is.

People see bars and sentences; programs that asked for JSON read the same from stderr as events, one
JSON object a line.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

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

__all__ = [
    "Bar",
    "Show",
    "byte_progress",
    "count_progress",
    "event_errors",
    "event_progress",
    "plain_console",
    "print_event",
    "print_json",
    "user_errors",
]

# Done, total, and what is at work.
Show = Callable[[int, int, str], None]
# Takes a title, as `byte_progress` does.
Bar = Callable[[str], AbstractContextManager[Show]]

_SECONDS_BETWEEN_EVENTS: Final = 0.1


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


@contextmanager
def event_errors(*kinds: type[Exception]) -> Generator[None]:
    """As `user_errors`, with the event "error" or "stopped" for the line."""
    try:
        yield
    except kinds as error:
        print_event("error", message=str(error))
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        print_event("stopped")
        raise typer.Exit(130) from error


@contextmanager
def event_progress(title: str) -> Generator[Show]:
    """As `byte_progress`, with the event "progress": at most ten a second, and always the last."""
    began: tuple[float, int] | None = None
    printed = -_SECONDS_BETWEEN_EVENTS
    waiting: dict[str, Any] | None = None

    def show(done: int, total: int, label: str) -> None:
        nonlocal began, printed, waiting
        now = time.monotonic()
        began = began or (now, done)
        left = _seconds_left(now - began[0], done - began[1], total - done)
        waiting = {
            "stage": title,
            "done": done,
            "total": total,
            "path": label,
            "seconds_left": left,
        }
        if now - printed >= _SECONDS_BETWEEN_EVENTS:
            print_event("progress", **waiting)
            printed, waiting = now, None

    try:
        yield show
    finally:
        if waiting is not None:
            print_event("progress", **waiting)


def _seconds_left(seconds: float, done: int, left: int) -> float | None:
    """Time for what is left at the pace of what is done; None while there is no pace."""
    return round(seconds * left / done, 1) if done > 0 else None


def print_event(event: str, **content: object) -> None:
    """Print what happened as one line of JSON on stderr, in ASCII."""
    typer.echo(json.dumps({"event": event} | content), err=True)


def plain_console(*, stderr: bool = False) -> Console:
    """A console that takes brackets in names for what they are, not for markup."""
    return Console(stderr=stderr, markup=False, highlight=False)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
