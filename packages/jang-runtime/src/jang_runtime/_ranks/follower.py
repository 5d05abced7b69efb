"""Ranks above 0: the same scheduler, the same steps, and nobody who listens."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import mlx.core as mx

from jang_runtime._errors import EngineStoppedError
from jang_runtime._events import Event
from jang_runtime._memory import weights_wired
from jang_runtime._options import EngineOptions
from jang_runtime._outside import Outside
from jang_runtime._ranks.group import LaunchedRanks, connect
from jang_runtime._ranks.lifeline import hold
from jang_runtime._ranks.start import start
from jang_runtime._ranks.steps import Step, decode
from jang_runtime._scheduler import Scheduler
from jang_runtime._tickets import Ticket

_log = logging.getLogger("jang_runtime")

# For rank 0 to say that it is the end, after the time in which it lets requests end.
_MARGIN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.2


def follow(path: Path, options: EngineOptions, drain_seconds: float) -> None:
    """Compute what rank 0 computes, until it says that it is the end.

    A launcher hands signals to all ranks. The first one is rank 0's business, which lets requests
    end; after that time, or at the second one, this process ends by itself.

    Args:
        path: The model's directory on this machine.
        options: Those of rank 0 take their place.
        drain_seconds: For how long rank 0 lets requests end.

    Raises:
        JangRuntimeError: If the model cannot be loaded, or rank 0 is lost.
    """
    failures: list[BaseException] = []
    signals: list[float] = []
    losses: list[EngineStoppedError] = []

    def run() -> None:
        try:
            _run(path, options, losses.append)
        # Raised again in the thread that waits.
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            # Without this a thread that used MLX can abort the process at exit.
            mx.clear_streams()

    def note(*_: object) -> None:
        signals.append(time.monotonic())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    # Rank 0 reads its tokens anew.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    thread = threading.Thread(target=run, name="jang-engine", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        late = bool(signals) and time.monotonic() > signals[0] + drain_seconds + _MARGIN_SECONDS
        if late or len(signals) > 1:
            # The thread is somewhere in MLX, which has no way to be stopped.
            os._exit(1)
        if losses and thread.is_alive():
            raise losses[0]
    if failures:
        raise failures[0]


def _run(path: Path, options: EngineOptions, lose: Callable[[EngineStoppedError], None]) -> None:
    ranks = connect()
    if not isinstance(ranks, LaunchedRanks):
        raise EngineStoppedError("the engine has stopped: a rank above 0 found no others")
    hold(ranks, lambda: lose(ranks.loss("its connection has closed")))
    _, scheduler = start(path, None, options, ranks)
    with weights_wired():
        idle_steps = 0
        while (outside := _step(scheduler, ranks)) is not None:
            has_work = scheduler.has_work(replace(outside, cancelled=(), expired=()))
            idle_steps = 0 if has_work else idle_steps + 1
            if not has_work:
                time.sleep(ranks.rest(idle_steps))


def _step(scheduler: Scheduler, ranks: LaunchedRanks) -> Outside | None:
    """Do what rank 0 does; what decided it, or None if that was the last step."""
    step = cast(Step, decode(ranks.hear(scheduler.decided())))
    for request in step.requests:
        scheduler.submit(Ticket(request, _drop, lambda: True, lambda: None))
    if step.ends:
        scheduler.cancel_all()
        return None
    if step.clears:
        scheduler.clear_prefix_cache()
    open_tickets = scheduler.open_tickets()
    outside = Outside(
        cancelled=[open_tickets[place] for place in step.cancelled],
        expired=[open_tickets[place] for place in step.expired],
        blocked={open_tickets[place] for place in step.blocked},
    )
    scheduler.step(outside)
    return outside


def _drop(event: Event) -> None:
    """Rank 0 has the same events, and somebody who wants them."""
