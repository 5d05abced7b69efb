"""A time limit ends a generation with what it has, wherever it is."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime import (
    Client,
    Delta,
    Engine,
    EngineOptions,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Logprobs,
    Server,
    Started,
    Stopping,
    TokenPrompt,
    _outside,
)
from jang_runtime import _prompts as prompts
from jang_runtime.terminal import stream_events
from jang_runtime.testing import FakeServer

HOUR = 3600.0
PROMPT = TokenPrompt((40, 41, 42))
ENDLESS = GenerationRequest(PROMPT, stopping=Stopping(max_tokens=500, ignore_eos=True))


class Clock:
    """The engine's time: an hour passes when something is true."""

    def __init__(self) -> None:
        self.strikes: Callable[[], bool] = lambda: False

    def monotonic(self) -> float:
        return time.monotonic() + HOUR * self.strikes()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    its = Clock()
    monkeypatch.setattr(_outside, "time", SimpleNamespace(monotonic=its.monotonic))
    return its


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model, options=EngineOptions(max_active=1, prefix_cache_bytes=0)) as running:
        yield running


def limited(prompt: TokenPrompt = PROMPT, **stopping: object) -> GenerationRequest:
    fields = {"max_tokens": 400, "ignore_eos": True, "time_limit_seconds": HOUR / 2} | stopping
    return GenerationRequest(prompt, stopping=Stopping(**fields))  # type: ignore[arg-type]


def outcome(events: list[Event]) -> tuple[str, tuple[int, ...], Finished]:
    deltas = [event for event in events if isinstance(event, Delta)]
    assert isinstance(events[-1], Finished)
    ids = tuple(token for delta in deltas for token in delta.token_ids)
    return "".join(delta.text for delta in deltas), ids, events[-1]


def test_while_decoding_it_ends_with_the_tokens_so_far_and_the_text_held_back(
    engine: Engine, clock: Clock
) -> None:
    free = GenerationRequest(PROMPT, stopping=Stopping(max_tokens=40, ignore_eos=True))
    text, ids, _ = outcome(list(stream_events(engine, free)))
    before = engine.statistics().generated_tokens
    clock.strikes = lambda: engine.statistics().generated_tokens >= before + 20
    # All of the text could be the beginning of this.
    events = list(stream_events(engine, limited(stop_strings=(text + "\0",))))
    cut, cut_ids, finished = outcome(events)
    assert finished.reason is FinishReason.DEADLINE
    assert finished.completion_tokens == len(cut_ids) == 20
    assert cut_ids == ids[:20]
    assert cut
    assert text.startswith(cut.rstrip("\ufffd"))
    assert engine.statistics().active == 0


def test_in_its_prompt_it_ends_without_tokens(engine: Engine, clock: Clock) -> None:
    begun: list[Event] = []
    clock.strikes = lambda: bool(begun)
    events: SimpleQueue[Event] = SimpleQueue()

    def listen(event: Event) -> None:
        begun.append(event)
        events.put(event)

    # Longer than a step works on.
    engine.submit(limited(TokenPrompt((5,) * 500), max_tokens=10), listen)
    assert isinstance(events.get(timeout=20), Started)
    finished = events.get(timeout=20)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.completion_tokens) == (FinishReason.DEADLINE, 0)
    assert finished.prompt_tokens == 500


def test_in_the_queue_it_ends_while_others_go_on(engine: Engine, clock: Clock) -> None:
    events: SimpleQueue[Event] = SimpleQueue()
    with_place = stream_events(engine, ENDLESS)
    next(with_place)
    clock.strikes = lambda: True
    engine.submit(limited(), events.put)
    finished = events.get(timeout=20)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.prompt_tokens) == (FinishReason.DEADLINE, 0)
    assert outcome(list(with_place))[2].reason is FinishReason.MAX_TOKENS


def test_an_engine_that_sleeps_wakes_up_for_it(engine: Engine) -> None:
    events: SimpleQueue[Event] = SimpleQueue()
    # Nobody reads it: there is nothing to do.
    measured = replace(limited(time_limit_seconds=0.2), logprobs=Logprobs(prompt=1))
    engine.submit(measured, events.put, lambda: False)
    assert isinstance(events.get(timeout=20), Started)
    finished = events.get(timeout=20)
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.DEADLINE


def test_it_counts_from_the_calls_arrival_while_its_text_waits_to_be_tokens_too(
    engine: Engine,
    serving: Callable[..., AbstractContextManager[Server]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenize, go_on = prompts.tokenize, threading.Event()

    def gated(*arguments: Any) -> list[int]:
        # Not the engine, which looks at what are tokens already.
        if threading.current_thread().name.startswith("jang-texts"):
            go_on.wait(20)
        return tokenize(*arguments)

    monkeypatch.setattr(prompts, "tokenize", gated)
    stopping = pb.Stopping(max_tokens=2, time_limit_seconds=0.3)
    with serving(engine) as server, Client(server.address) as client:
        began = time.monotonic()
        (event,) = client.stream("hello", stopping=stopping)
        assert time.monotonic() - began < 10
        go_on.set()
        assert event.finished.finish_reason == pb.FINISH_REASON_DEADLINE
        assert event.finished.timings.queue_seconds >= 0.3
        # Once it is tokens at last, nobody wants them any more.
        assert client.generate("hello", stopping=pb.Stopping(max_tokens=2)).token_ids
        arrived = time.monotonic() - 5
        events: SimpleQueue[Event] = SimpleQueue()
        engine.submit(limited(time_limit_seconds=4), events.put, arrived=arrived)
        finished = events.get(timeout=20)
        assert isinstance(finished, Finished)
        assert finished.reason is FinishReason.DEADLINE
        assert finished.timings.queue >= 5


def test_callers_get_what_there_is(
    engine: Engine, clock: Clock, serving: Callable[..., AbstractContextManager[Server]]
) -> None:
    with serving(engine) as server, Client(server.address) as client:
        # What the server asked first, which statistics know a moment after it was answered.
        while not engine.statistics().finished:
            time.sleep(0.01)
        before = engine.statistics().generated_tokens
        clock.strikes = lambda: engine.statistics().generated_tokens >= before + 7
        stopping = pb.Stopping(max_tokens=400, ignore_eos=True, time_limit_seconds=HOUR / 2)
        answer = client.generate([40, 41, 42], stopping=stopping)
    assert answer.finished.finish_reason == pb.FINISH_REASON_DEADLINE
    assert len(answer.token_ids) == 7
    assert answer.text


def test_the_fake_server_knows_it_too() -> None:
    with FakeServer("one two three", delta_delay=0.2) as server, Client(server.address) as client:
        stopping = pb.Stopping(time_limit_seconds=0.1)
        answer = client.generate("x", stopping=stopping)
    assert answer.finished.finish_reason == pb.FINISH_REASON_DEADLINE
    assert answer.text in ("", "one")
