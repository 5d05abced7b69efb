"""A rank is lost while the engine's thread waits for it in MLX, which may be for ever."""

import asyncio
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import mlx.core as mx
import pytest

from jang_runtime import (
    Delta,
    Engine,
    EngineOptions,
    EngineStoppedError,
    Event,
    Failed,
    GenerationRequest,
    ServiceOptions,
    Started,
    Stopping,
    TextPrompt,
    _engine,
    serve,
    start_server,
)
from jang_runtime._model import load
from jang_runtime._ranks import follower
from jang_runtime._ranks.group import LaunchedRanks
from jang_runtime._scheduler import Scheduler
from jang_runtime._service import lifecycle

ENDLESS = GenerationRequest(TextPrompt("x"), stopping=Stopping(max_tokens=500, ignore_eos=True))
LOSS = "rank 0 of 2 has lost another one: its connection has closed"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Lonely(LaunchedRanks):
    """Rank 0 of two, whose other one can stop to answer, as in MLX: without an end."""

    rank, size = 0, 2  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        super().__init__(cast(Any, None))
        self.answers = threading.Event()
        self.answers.set()
        # Whether the thread waits for an answer now.
        self.waits = threading.Event()
        self.lost: Callable[[], None] = lambda: None

    __setattr__ = object.__setattr__

    def stop_answering(self) -> None:
        self.answers.clear()
        assert self.waits.wait(20)

    def _wait(self) -> None:
        if not self.answers.is_set():
            self.waits.set()
            assert self.answers.wait(60)
            # As MLX says it in the end, if it does.
            raise self.loss("Connection reset by peer")

    def tell(self, decided: Callable[[], bytes], message: Callable[[], bytes]) -> None:
        self._wait()

    def largest(self, numbers: Sequence[int]) -> tuple[int, ...]:
        self._wait()
        return tuple(numbers)

    def of_first(self, tokens: mx.array) -> mx.array:
        return tokens


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lonely]:
    lonely = Lonely()

    def hold(_: object, lost: Callable[[], None]) -> None:
        lonely.lost = lost

    def start(path: Path, name: str | None, options: EngineOptions, _: object) -> object:
        loaded = load(path, name)
        info = replace(loaded.info, ranks=lonely.size)
        return info, Scheduler(loaded, options, lonely)

    monkeypatch.setattr(_engine, "hold", hold)
    monkeypatch.setattr(_engine, "start", start)
    yield lonely
    lonely.answers.set()
    for thread in threading.enumerate():
        if thread.name == "jang-engine":
            thread.join(20)


def test_a_server_that_loses_a_rank_while_it_drains_ends_with_an_error(
    ranks: Lonely, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has to end by itself then: the engine's thread holds up the interpreter's end."""
    events: list[asyncio.Event] = []
    monkeypatch.setattr(lifecycle, "_handle_signals", lambda _, *both: events.extend(both))

    def lose(*_: object) -> None:
        events[0].set()
        ranks.stop_answering()
        ranks.lost()

    serving = serve(
        tiny_model,
        ServiceOptions(listen="127.0.0.1:0"),
        EngineOptions(),
        lose,
        lambda: ranks,
    )
    with pytest.raises(EngineStoppedError, match=LOSS):
        asyncio.run(serving)


def test_ranks_that_are_lost_together_end_a_request_once(ranks: Lonely, tiny_model: Path) -> None:
    engine = Engine(tiny_model, connect=lambda: ranks)
    first, both = threading.Event(), threading.Barrier(2, timeout=20)
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Failed):
            # The first of the two is in the middle of it when the second one comes.
            first.set()
            both.wait()

    engine.submit(ENDLESS, listen)
    ranks.stop_answering()
    watchers = [threading.Thread(target=ranks.lost) for _ in range(2)]
    watchers[0].start()
    assert first.wait(20)
    watchers[1].start()
    watchers[1].join(20)
    both.wait()
    watchers[0].join(20)
    assert engine.join(20)
    assert [type(event) for event in events].count(Failed) == 1


def test_a_rank_that_is_lost_while_the_model_is_loaded_ends_the_wait_for_it(
    ranks: Lonely, tiny_model: Path
) -> None:
    ranks.answers.clear()

    def lose() -> None:
        assert ranks.waits.wait(20)
        ranks.lost()

    watcher = threading.Thread(target=lose)
    watcher.start()
    with pytest.raises(EngineStoppedError, match=LOSS):
        Engine(tiny_model, connect=lambda: ranks)
    watcher.join(20)


def test_a_rank_that_is_lost_in_the_first_request_is_why_the_server_does_not_start(
    ranks: Lonely, tiny_model: Path
) -> None:
    engine = Engine(tiny_model, connect=lambda: ranks)

    def lose() -> None:
        ranks.stop_answering()
        ranks.lost()

    async def live() -> None:
        watcher = asyncio.to_thread(lose)
        _, outcome = await asyncio.gather(watcher, start_server(engine), return_exceptions=True)
        assert isinstance(outcome, EngineStoppedError)

    submit = engine.submit

    def submit_and_lose(*args: Any) -> Any:
        ranks.answers.clear()
        return submit(*args)

    engine.submit = submit_and_lose  # type: ignore[method-assign]
    asyncio.run(live())


def test_a_rank_that_is_lost_ends_what_runs_and_what_waits_and_lets_nothing_in(
    ranks: Lonely, tiny_model: Path
) -> None:
    engine = Engine(tiny_model, connect=lambda: ranks)
    running: SimpleQueue[Event] = SimpleQueue()
    waiting: SimpleQueue[Event] = SimpleQueue()
    engine.submit(ENDLESS, running.put)
    assert isinstance(running.get(timeout=20), Started)
    ranks.stop_answering()
    engine.submit(ENDLESS, waiting.put)
    assert engine.is_alive
    ranks.lost()
    for events in (running, waiting):
        event = events.get(timeout=20)
        while isinstance(event, Delta):
            event = events.get(timeout=20)
        assert isinstance(event, Failed)
        assert re.search(LOSS, str(event.error))
    assert not engine.is_alive
    assert engine.join(20)
    with pytest.raises(EngineStoppedError):
        engine.submit(ENDLESS, waiting.put)
    with pytest.raises(EngineStoppedError, match=LOSS):
        engine.close()
    assert engine._thread.is_alive()


def test_an_engine_whose_other_rank_does_not_answer_is_not_waited_for_for_ever(
    ranks: Lonely, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_engine, "_LAST_STEP_SECONDS", 0.1)
    engine = Engine(tiny_model, connect=lambda: ranks)
    ranks.stop_answering()
    with pytest.raises(EngineStoppedError, match="another rank does not answer"):
        engine.close()


def test_a_rank_above_0_that_loses_the_first_ends_while_its_thread_still_waits(
    ranks: Lonely, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(_: object, lost: Callable[[], None]) -> None:
        lost()

    def start(*_: object) -> object:
        # As in MLX: nobody answers, and nothing is raised.
        assert ranks.answers.wait(60)
        raise ranks.loss("Connection reset by peer")

    monkeypatch.setattr(follower, "connect", lambda: ranks)
    monkeypatch.setattr(follower, "hold", hold)
    monkeypatch.setattr(follower, "start", start)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ranks.answers.clear()
    try:
        with pytest.raises(EngineStoppedError, match=LOSS):
            follower.follow(tiny_model, EngineOptions(), drain_seconds=1)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not ranks.answers.is_set()
