"""What a command says on stderr while it works: sentences for people, events for programs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import typer
from rich.console import Console

from jang_format.terminal import (
    Bar,
    byte_progress,
    count_progress,
    event_errors,
    event_progress,
    print_event,
    user_errors,
)
from jang_quant._report import estimates, memory_line, plan_facts, plan_headline, plan_table
from jang_quant._request import Prepared
from jang_quant._sources.source import Source


@dataclass(frozen=True)
class Messages:
    """How a command speaks.

    Attributes:
        errors: Makes an exit of errors of these kinds.
        opening: Called before a source is opened, which may come from the hub.
        calibrating: Shows how much text has been run.
        converting: Shows how many bytes are written.
        multiplying: Says which library multiplies.
        planned: Says what a conversion will give.
    """

    errors: Callable[..., AbstractContextManager[None]]
    opening: Callable[[], None]
    calibrating: Bar
    converting: Bar
    multiplying: Callable[[str], None]
    planned: Callable[[Source, Prepared], None]


def print_plan(source: Source, prepared: Prepared, console: Console) -> None:
    """Print a plan for people: a headline, a table, and what is expected of it."""
    # soft_wrap leaves the line whole where the output is a file.
    console.print(plan_headline(source, prepared.plan), soft_wrap=True, highlight=False)
    console.print(plan_table(prepared.plan))
    if prepared.memory is not None:
        console.print(memory_line(prepared.memory), soft_wrap=True, highlight=False)
    if prepared.damage is not None:
        console.print(
            f"estimated divergence from the source: {prepared.damage:.4g} nats a token, with "
            "searched grids; gptq does better",
            soft_wrap=True,
            highlight=False,
        )


def _plan_event(source: Source, prepared: Prepared) -> None:
    print_event(
        "plan",
        source=source.name,
        source_quantization=source.quantization,
        **plan_facts(prepared.plan),
        **estimates(prepared),
    )


def _hide_downloads() -> None:
    """The hub's library draws bars on stderr, which are no JSON."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


FOR_PEOPLE: Final = Messages(
    errors=user_errors,
    opening=lambda: None,
    calibrating=count_progress,
    converting=byte_progress,
    multiplying=lambda library: typer.echo(f"multiplying with {library}", err=True),
    planned=lambda source, prepared: print_plan(source, prepared, Console(stderr=True)),
)
FOR_PROGRAMS: Final = Messages(
    errors=event_errors,
    opening=_hide_downloads,
    calibrating=event_progress,
    converting=event_progress,
    multiplying=lambda library: print_event("multiplying", library=library),
    planned=_plan_event,
)
