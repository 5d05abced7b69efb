"""Memory for keys and values: what a request takes, who waits for it, and who is refused."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from jang_runtime import (
    CacheTooSmallError,
    Engine,
    EngineOptions,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Logits,
    LogitsRequest,
    ScoreRequest,
    Started,
    Stopping,
    TokenPrompt,
)
from jang_runtime._cache_room import cache_cost
from jang_runtime._caches import size_in_bytes

# The tiny model: 2 layers, 2 heads of 32, keys and values, float32.
TOKEN = 2 * 2 * 32 * 2 * 4


def fed(cache: Any, tokens: int) -> Any:
    while tokens:
        # As a prompt's pieces come; windows trim what they hold one piece late.
        piece = min(tokens, 64)
        keys = mx.zeros((1, 2, piece, 64))
        cache.update_and_fetch(keys, keys)
        tokens -= piece
    return cache


def states() -> ArraysCache:
    cache = ArraysCache(2)
    cache[0] = cache[1] = mx.zeros((1, 50, 4))
    return cache


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 700])
def test_the_cost_of_a_text_is_what_caches_of_it_hold(tokens: int) -> None:
    def caches(length: int) -> list[Any]:
        return [
            fed(KVCache(), length),
            CacheList(fed(KVCache(), length), states()),
            states(),
            fed(QuantizedKVCache(group_size=64, bits=4), length),
        ]

    assert cache_cost(caches(1)).of(tokens) == size_in_bytes(caches(tokens))
    window = cache_cost([fed(RotatingKVCache(max_size=300), 1)])
    assert window.of(tokens) == 2 * 2 * 64 * 4 * min(-(-tokens // 256) * 256, 300)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    """Room for 768 tokens; the cost of a token is known."""
    options = EngineOptions(cache_bytes=768 * TOKEN, prefix_cache_bytes=0)
    with Engine(tiny_model, options=options) as running:
        ended(running, request(2, 2))
        yield running


def request(prompt: int, answer: int) -> GenerationRequest:
    return GenerationRequest(
        TokenPrompt((5,) * prompt),
        stopping=Stopping(max_tokens=answer, ignore_eos=True),
    )


def ended(engine: Engine, asked: Any) -> Event:
    events: SimpleQueue[Event] = SimpleQueue()
    engine.submit(asked, events.put)
    return next(event for event in iter(events.get, None) if isinstance(event, Finished | Failed))


def test_requests_that_do_not_fit_together_run_one_after_the_other(engine: Engine) -> None:
    ends: SimpleQueue[Event] = SimpleQueue()
    reserved: list[int] = []
    active: list[int] = []

    def listen(event: Event) -> None:
        # In the engine's thread, between two steps.
        reserved.append(engine.statistics().cache_bytes_reserved)
        active.append(engine.statistics().active)
        if isinstance(event, Finished | Failed):
            ends.put(event)

    for _ in range(3):
        engine.submit(request(200, 100), listen)
    for _ in range(3):
        engine.submit(request(20, 100), listen)
    finished = [ends.get(timeout=60) for _ in range(6)]
    assert all(isinstance(each, Finished) for each in finished)
    assert max(reserved) <= 768 * TOKEN
    # 512 tokens of room for one of the long ones; three of the short ones at a time.
    assert max(active) == 3
    time.sleep(0.05)
    assert engine.statistics().cache_bytes_reserved == 0


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (request(400, 112), None),
        (LogitsRequest(TokenPrompt((5,) * 500)), None),
        (ScoreRequest(TokenPrompt((5,) * 200), ((6,), (7,))), None),
        (ScoreRequest(TokenPrompt((5,) * 200), ((6,) * 57, (7,) * 2)), "257 tokens .* in 3 rows"),
    ],
)
def test_what_can_never_fit_is_refused_at_once_and_the_rest_is_not(
    engine: Engine, asked: Any, found: str | None
) -> None:
    end = ended(engine, asked)
    if found is None:
        assert isinstance(end, Finished)
    else:
        assert isinstance(end, Failed)
        assert isinstance(end.error, CacheTooSmallError)
        assert re.search(found, str(end.error))
        assert f"expected at most {768 * TOKEN}" in str(end.error)


def test_logits_are_computed_as_far_as_their_reader_has_room(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._caches._LOGITS_BYTES", 10 * 384 * 4)
    room = threading.Event()
    events: SimpleQueue[Event] = SimpleQueue()
    with Engine(tiny_model) as engine:

        def listen(event: Event) -> None:
            if isinstance(event, Logits):
                room.clear()
            events.put(event)

        room.set()
        ticket = engine.submit(LogitsRequest(TokenPrompt((5,) * 35)), listen, room.is_set)
        events.get()
        rows: list[int] = []
        for _ in range(2):
            first = events.get(timeout=10)
            assert isinstance(first, Logits)
            assert len(first.positions) == 10
            rows += first.positions
            # Others go on meanwhile, and this one does not.
            assert isinstance(ended(engine, request(3, 5)), Finished)
            assert events.empty()
            room.set()
            ticket.wake()
        assert rows == list(range(20))
        assert isinstance(events.get(timeout=10), Logits)
        ticket.cancel()
        end = events.get(timeout=10)
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.CANCELLED


def test_an_engine_whose_requests_all_wait_for_readers_rests(tiny_model: Path) -> None:
    with Engine(tiny_model) as engine:
        events: SimpleQueue[Event] = SimpleQueue()
        engine.submit(LogitsRequest(TokenPrompt((5,) * 9)), events.put, lambda: False)
        time.sleep(0.2)
        begun = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - begun < 0.2
        assert isinstance(events.get(), Started)
        assert events.empty()
