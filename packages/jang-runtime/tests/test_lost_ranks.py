"""A rank is lost while the engine's thread waits for it in MLX, which may be for ever."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest

from jang_runtime import (
    Engine,
    EngineOptions,
    EngineStoppedError,
    Event,
    Failed,
    GenerationRequest,
    ServiceOptions,
    Stopping,
    TextPrompt,
    _engine,
    serve,
)
from jang_runtime._model import load
from jang_runtime._ranks.group import LaunchedRanks
from jang_runtime._scheduler import Scheduler
from jang_runtime._service import lifecycle

ENDLESS = GenerationRequest(TextPrompt("x"), stopping=Stopping(max_tokens=500, ignore_eos=True))


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
        return loaded.info, Scheduler(loaded, options, lonely)

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
    with pytest.raises(EngineStoppedError, match="rank 0 of 2 has lost another one"):
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
