"""Signals that come before a server is ready: the first one ends it, the second one at once."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from jang_runtime import EngineOptions, InterruptedInThreadError, ServiceOptions, serve
from jang_runtime._scheduler import Scheduler
from jang_runtime._service import lifecycle, server
from jang_runtime._service.texts import Texts


class Gate:
    """Where something waits until it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.left = threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        self.opened.wait(20)
        self.left.set()

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    its = Gate()
    yield its
    its.opened.set()
    for thread in threading.enumerate():
        if thread.name in ("jang-engine", "jang-waiter"):
            thread.join(20)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Event]:
    """The first and the second one, once the server listens to them."""
    events: list[asyncio.Event] = []
    monkeypatch.setattr(lifecycle, "_handle_signals", lambda _, *both: events.extend(both))
    return events


@pytest.fixture
def warming_up(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of the engine takes as long as the gate is shut."""
    step = Scheduler.step

    def slow(self: Scheduler, outside: Any) -> None:
        if outside.cancelled or self.open_tickets():
            gate.pass_through()
        step(self, outside)

    monkeypatch.setattr(Scheduler, "step", slow)


def serving(model: Path) -> Coroutine[Any, Any, None]:
    def announce(*_: object) -> None:
        raise AssertionError("nobody is to be let in")

    return serve(model, ServiceOptions(listen="127.0.0.1:0"), EngineOptions(), announce)


@pytest.mark.usefixtures("warming_up")
def test_a_signal_while_the_model_is_warmed_up_ends_the_server_after_that_step(
    gate: Gate, signals: list[asyncio.Event], tiny_model: Path
) -> None:
    async def live() -> None:
        life = asyncio.ensure_future(serving(tiny_model))
        await gate.until_reached()
        signals[0].set()
        await asyncio.sleep(0.1)
        assert not life.done()
        gate.opened.set()
        with pytest.raises(InterruptedInThreadError):
            await asyncio.wait_for(life, 20)

    asyncio.run(live())


@pytest.mark.usefixtures("warming_up")
def test_a_second_signal_does_not_wait_for_the_step(
    gate: Gate,
    signals: list[asyncio.Event],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "_LAST_STEP_SECONDS", 0.05)

    async def live() -> None:
        life = asyncio.ensure_future(serving(tiny_model))
        await gate.until_reached()
        signals[0].set()
        await asyncio.sleep(0.1)
        signals[1].set()
        with pytest.raises(InterruptedInThreadError, match="second signal"):
            await asyncio.wait_for(life, 20)
        assert not gate.left.is_set()

    asyncio.run(live())


def test_a_signal_while_the_tokenizer_is_loaded_ends_the_server(
    gate: Gate,
    signals: list[asyncio.Event],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(path: Path) -> Texts:
        gate.pass_through()
        return Texts(path)

    monkeypatch.setattr(server, "Texts", slow)

    async def live() -> None:
        life = asyncio.ensure_future(serving(tiny_model))
        await gate.until_reached()
        signals[0].set()
        with pytest.raises(InterruptedInThreadError, match="warmed up"):
            await asyncio.wait_for(life, 20)

    # Its end does not wait for the tokenizer either.
    asyncio.run(live())
    assert not gate.left.is_set()
