"""Runs a command's task with progress on stderr, and prints the result on stdout."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jang_eval._access import Access
from jang_eval._commands.ending import ending_in_order
from jang_eval._documents import document_text
from jang_eval._errors import OptionError
from jang_eval._evaluation import EvaluationResult, Task
from jang_eval._records import to_json
from jang_eval._running import run_task
from jang_eval._target import Target
from jang_eval._terminal import metrics_table

_IN_FLIGHT_MAX: Final = 256


def run_and_print(
    task: Task,
    *,
    target: str,
    access: Access,
    timeout: float,
    in_flight: int,
    output: Path | None,
    as_json: bool,
) -> EvaluationResult:
    """Asks a server everything, writes the result where it is wanted, and prints it.

    Raises:
        OptionError: If `timeout` or `in_flight` is out of range.
        TargetError: The server is unreachable, too slow, or refuses.
        ResultFileError: A file cannot be written, or belongs to another run.
    """
    check_in_flight(in_flight)
    with (
        ending_in_order() if output is not None else nullcontext(),
        Target(target, timeout=timeout, access=access) as server,
        show_progress(task.name) as show,
    ):
        result = run_task(task, server, in_flight=in_flight, output=output, on_progress=show)
    if output is not None:
        typer.echo(f"wrote {output}", err=True)
    if as_json:
        # JSON is UTF-8 whatever the terminal is.
        typer.echo(document_text(to_json(result)).encode(), nl=False)
    else:
        Console().print(metrics_table(result))
    return result


def check_in_flight(in_flight: int) -> None:
    """Raise OptionError if the questions asked at a time are out of range."""
    if not 1 <= in_flight <= _IN_FLIGHT_MAX:
        raise OptionError(f"in_flight: found {in_flight}, expected 1 to {_IN_FLIGHT_MAX}")


@contextmanager
def show_progress(name: str) -> Generator[Callable[[int, int], None]]:
    """Shows what is done and how long the rest takes; nothing where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        begun: list[TaskID] = []

        def show(done: int, total: int) -> None:
            # What an earlier run answered is there from the start, and tells nothing of the speed.
            if not begun:
                begun.append(progress.add_task(name, completed=done, total=total))
            progress.update(begun[0], completed=done)

        yield show
