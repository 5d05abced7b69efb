"""Requests that run together: the same text as alone, and troubles that stay with their owner."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from runpy import run_path
from typing import Any

import mlx.core as mx
import pytest

from jang_runtime import (
    Delta,
    Engine,
    EngineOptions,
    EngineStoppedError,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationError,
    GenerationRequest,
    InvalidRequestError,
    Logprobs,
    Sampling,
    Started,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from jang_runtime._caches import ForwardPass
from jang_runtime._sampling import Chooser

CAMPAIGN = run_path(str(Path(__file__).with_name("campaign.py")))["campaign"]
ALONE = EngineOptions(max_active=1, prefix_cache_bytes=0)

# Prompts of different lengths, every way of choosing.
MIXED = [
    GenerationRequest(TokenPrompt(tuple(range(10, 10 + length))), sampling, Stopping(max_tokens=20))
    for length, sampling in (
        (1, Sampling()),
        (7, Sampling(temperature=1.0, seed=1)),
        (40, Sampling(temperature=1.5, top_p=0.9, seed=2)),
        (3, Sampling(repetition_penalty=1.5, presence_penalty=0.5)),
        (90, Sampling(temperature=0.8, top_k=20, seed=2**64 - 1)),
        (12, Sampling(logit_bias={77: 3.0, 80: -100.0})),
        (33, Sampling(temperature=1.0, min_p=0.02, frequency_penalty=0.3, seed=5)),
        (64, Sampling()),
    )
]


class Listener:
    """Collects events; `on` is called with each in the engine's thread."""

    def __init__(self, on: Callable[[Event], None] = lambda event: None) -> None:
        self.events: list[Event] = []
        self._on = on
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self._ended.set()
        self._on(event)

    def end(self) -> Event:
        assert self._ended.wait(60)
        return self.events[-1]

    def ids(self) -> list[int]:
        self.end()
        deltas = [event for event in self.events if isinstance(event, Delta)]
        return [token for delta in deltas for token in delta.token_ids]


def together(engine: Engine, requests: list[GenerationRequest]) -> list[list[int]]:
    listeners = [Listener() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        engine.submit(request, listener)
    return [listener.ids() for listener in listeners]


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> list[list[int]]:
    with Engine(tiny_model, options=ALONE) as engine:
        return [together(engine, [request])[0] for request in MIXED]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Rows and tokens of each forward pass."""
    shapes: list[tuple[int, ...]] = []
    run = ForwardPass.__call__

    def counted(self: ForwardPass, tokens: mx.array, caches: list[Any]) -> mx.array:
        shapes.append(tokens.shape)
        return run(self, tokens, caches)

    monkeypatch.setattr(ForwardPass, "__call__", counted)
    return shapes


def test_requests_get_the_same_text_in_a_batch_as_alone(
    engine: Engine, alone: list[list[int]], passes: list[tuple[int, ...]]
) -> None:
    assert len({tuple(ids) for ids in alone}) == len(MIXED)
    assert together(engine, MIXED) == alone
    assert together(engine, MIXED[::-1]) == alone[::-1]
    assert max(rows for rows, _ in passes) == len(MIXED)


def test_a_real_model_gives_the_same_text_in_a_batch_as_alone(smollm2: Path) -> None:
    requests = [
        GenerationRequest(TextPrompt(text), sampling, Stopping(max_tokens=6))
        for text, sampling in (
            ("The capital of France is", Sampling()),
            ("Once upon a time, a small", Sampling(temperature=1.0, seed=3)),
            ("def", Sampling(temperature=0.8, top_p=0.9, seed=4)),
        )
    ]
    with Engine(smollm2) as engine:
        in_turn = [together(engine, [request])[0] for request in requests]
        engine.clear_prefix_cache()
        assert together(engine, requests) == in_turn


def test_requests_join_and_leave_while_others_run(engine: Engine, alone: list[list[int]]) -> None:
    endless = Stopping(max_tokens=400, ignore_eos=True)
    joined: dict[int, Listener] = {}

    def join_now_and_then(event: Event) -> None:
        tokens = sum(isinstance(each, Delta) for each in running.events)
        if isinstance(event, Delta) and tokens % 9 == 0 and len(joined) < len(MIXED):
            joined[tokens] = Listener()
            engine.submit(MIXED[len(joined) - 1], joined[tokens])
        if len(joined) == len(MIXED) and all(each.events for each in joined.values()):
            ticket.cancel()

    running = Listener(join_now_and_then)
    ticket = engine.submit(GenerationRequest(TextPrompt("x"), stopping=endless), running)
    end = running.end()
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens < 400) == (FinishReason.CANCELLED, True)
    assert [listener.ids() for listener in joined.values()] == alone


def test_a_long_prompt_does_not_hold_up_what_runs(engine: Engine) -> None:
    order: list[str] = []
    running = Listener(lambda event: order.extend(["token"] * len(getattr(event, "token_ids", ()))))
    endless = Stopping(max_tokens=450, ignore_eos=True)
    ticket = engine.submit(GenerationRequest(TextPrompt("x"), stopping=endless), running)
    long = Listener(lambda event: order.append(type(event).__name__))
    engine.submit(GenerationRequest(TokenPrompt((9,) * 490), stopping=Stopping(max_tokens=1)), long)
    long.end()
    ticket.cancel()
    between = order[order.index("Started") : order.index("Delta")]
    # A piece is 64 tokens; up to three tokens wait for a whole character.
    assert between.count("token") >= 490 // 64 - 3


def test_cancelling_stops_a_long_prompt_before_its_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fed = ForwardPass.__call__, 0
    submitted = threading.Event()

    def cancels(self: ForwardPass, tokens: mx.array, caches: list[Any]) -> mx.array:
        nonlocal fed
        fed += tokens.size
        submitted.wait(60)
        ticket.cancel()
        return run(self, tokens, caches)

    monkeypatch.setattr(ForwardPass, "__call__", cancels)
    listener = Listener()
    request = GenerationRequest(TokenPrompt((11,) * 500), stopping=Stopping(max_tokens=1))
    ticket = engine.submit(request, listener)
    submitted.set()
    end = listener.end()
    assert isinstance(end, Finished)
    assert (end.reason, len(listener.events)) == (FinishReason.CANCELLED, 2)
    assert fed == 256


def test_a_request_that_is_cancelled_while_it_waits_never_starts(tiny_model: Path) -> None:
    with Engine(tiny_model, options=EngineOptions(max_active=1)) as engine:
        waiting = Listener()

        def cancel(event: Event) -> None:
            if isinstance(event, Started):
                engine.submit(MIXED[0], waiting).cancel()

        running = Listener(cancel)
        engine.submit(MIXED[1], running)
        end = waiting.end()
        assert isinstance(end, Finished)
        assert (end.reason, len(waiting.events)) == (FinishReason.CANCELLED, 1)
        assert len(running.ids()) == 20


def test_a_request_whose_tokens_cannot_be_chosen_fails_alone(
    engine: Engine, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = Chooser.choose

    def fails_at_the_fifth(self: Chooser, logits: mx.array, text: Any, index: int) -> mx.array:
        if self.seed == 13 and index == 5:
            raise ValueError("no such token")
        return choose(self, logits, text, index)

    monkeypatch.setattr(Chooser, "choose", fails_at_the_fifth)
    failing = Listener()
    engine.submit(GenerationRequest(TextPrompt("x"), Sampling(temperature=1, seed=13)), failing)
    assert together(engine, MIXED) == alone
    end = failing.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, GenerationError)
    assert "no such token" in str(end.error.__cause__)
    assert "no such token" not in str(end.error)
    assert len(failing.ids()) <= 5


def test_a_listener_that_raises_fails_its_own_request_only(
    engine: Engine, alone: list[list[int]]
) -> None:
    def raises(event: Event) -> None:
        if isinstance(event, Delta):
            raise ValueError("cannot listen")

    failing = Listener(raises)
    engine.submit(MIXED[1], failing)
    assert together(engine, MIXED) == alone
    assert isinstance(failing.end(), Failed)


def test_rows_of_a_pass_that_fails_go_on_alone_where_they_were(
    engine: Engine, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, crowded = ForwardPass.__call__, 0

    def fails_in_the_middle(self: ForwardPass, tokens: mx.array, caches: list[Any]) -> mx.array:
        nonlocal crowded
        is_crowded = tokens.shape[0] == len(MIXED)
        crowded += is_crowded
        if is_crowded and crowded == 6:
            raise RuntimeError("out of memory")
        return run(self, tokens, caches)

    monkeypatch.setattr(ForwardPass, "__call__", fails_in_the_middle)
    assert together(engine, MIXED) == alone
    assert crowded == 6


def test_nothing_is_computed_after_a_last_token(
    engine: Engine, passes: list[tuple[int, ...]]
) -> None:
    together(engine, [GenerationRequest(TokenPrompt((200, 201, 202)), stopping=Stopping(5))])
    assert passes == [(1, 2), *[(1, 1)] * 5]


def test_a_batch_holds_the_caches_of_its_rows_once(tiny_model: Path) -> None:
    held: list[int] = []
    with Engine(tiny_model, options=EngineOptions(prefix_cache_bytes=0)) as engine:
        before = engine.statistics().active_memory

        def weigh(event: Event) -> None:
            if engine.statistics().decoding == 6:
                held.append(mx.get_active_memory() - before)

        listeners = [Listener(weigh) for _ in range(6)]
        for number, listener in enumerate(listeners):
            prompt = TokenPrompt((20 + number,) * 250)
            engine.submit(GenerationRequest(prompt, stopping=Stopping(60, (), (), True)), listener)
        for listener in listeners:
            listener.ids()
    # Keys and values of 2 layers, 2 heads of 32 floats each; room for twice 256 tokens.
    assert 0 < min(held) < 1.4 * 6 * 512 * 2 * 2 * 2 * 32 * 4


def test_a_request_that_fails_even_alone_fails_and_the_next_is_served(
    engine: Engine, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ForwardPass.__call__

    def fails_on_13(self: ForwardPass, tokens: mx.array, caches: list[Any]) -> mx.array:
        if 13 in tokens.tolist()[0]:
            raise RuntimeError("thirteen")
        return run(self, tokens, caches)

    with monkeypatch.context() as patched:
        patched.setattr(ForwardPass, "__call__", fails_on_13)
        listener = Listener()
        engine.submit(GenerationRequest(TokenPrompt((13, 12))), listener)
        end = listener.end()
        assert isinstance(end, Failed)
        assert "thirteen" in str(end.error.__cause__)
    assert together(engine, MIXED[:2]) == alone[:2]


def test_when_the_engines_thread_dies_every_request_is_told_and_the_engine_says_so(
    tiny_model: Path,
) -> None:
    engine = Engine(tiny_model, options=EngineOptions(max_active=3))
    go_on = threading.Event()
    endless = GenerationRequest(TextPrompt("x"), stopping=Stopping(max_tokens=500, ignore_eos=True))

    def deadly(event: Event) -> None:
        go_on.wait(60)
        if isinstance(event, Delta):
            raise SystemExit

    requests = [Listener(deadly), *(Listener() for _ in range(6))]
    for listener in requests:
        engine.submit(endless, listener)
    assert engine.is_alive
    go_on.set()
    for listener in requests:
        end = listener.end()
        assert isinstance(end, Failed)
        assert isinstance(end.error, EngineStoppedError)
    assert engine.join(60)
    assert not engine.is_alive
    statistics = engine.statistics()
    assert (statistics.failed, statistics.active, statistics.queued) == (7, 0, 0)
    with pytest.raises(EngineStoppedError):
        engine.submit(endless, SimpleQueue[Event]().put)
    with pytest.raises(EngineStoppedError):
        engine.clear_prefix_cache()
    engine.close()


def test_two_hundred_random_requests_are_all_accounted_for(tiny_model: Path) -> None:
    with Engine(tiny_model) as engine:
        result = CAMPAIGN(engine, count=200, seed=1, longest=48, most=24, outstanding=24)
    assert result["ok"], result
    assert sum(result["outcomes"].values()) == 200
    assert result["outcomes"]["CANCELLED"] > 3
    assert result["outcomes"]["STOP_STRING"] > 0
    assert result["cached_prompt_tokens"] > 0


def test_statistics_count_requests_and_tokens(tiny_model: Path) -> None:
    with Engine(tiny_model) as engine:
        together(engine, MIXED)
        assert together(engine, [GenerationRequest(TokenPrompt((10**6,)))]) == [[]]
        engine.clear_prefix_cache()
        statistics = engine.statistics()
    assert (statistics.finished, statistics.failed, statistics.cancelled) == (8, 1, 0)
    assert statistics.prompt_tokens == sum(len(request.prompt.ids) for request in MIXED)  # type: ignore[union-attr]
    assert statistics.generated_tokens == 8 * 20
    assert statistics.peak_memory >= statistics.active_memory > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(max_active=0), "max_active: found 0, expected 1 to 256"),
        (EngineOptions(prefix_cache_bytes=-1), "prefix_cache_bytes: found -1, expected 0 or more"),
    ],
)
def test_wrong_options_are_refused_by_name(
    tiny_model: Path, options: EngineOptions, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Engine(tiny_model, options=options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": Sampling(seed=-1)}, "sampling.seed: found -1, expected 0 to"),
        ({"sampling": Sampling(repetition_penalty=0)}, "repetition_penalty: found 0, expected abo"),
        ({"sampling": Sampling(presence_penalty=float("nan"))}, "presence_penalty: found nan"),
        ({"sampling": Sampling(frequency_penalty=101)}, "frequency_penalty: found 101, expected -"),
        ({"sampling": Sampling(penalty_window=-1)}, "penalty_window: found -1, expected 0 or more"),
        ({"sampling": Sampling(logit_bias={384: 1})}, "logit_bias: found 384, expected ids from 0"),
        ({"sampling": Sampling(logit_bias={3: float("inf")})}, "logit_bias: found inf, expected"),
        ({"logprobs": Logprobs(output=21)}, "logprobs.output: found 21, expected 0 to 20"),
        ({"logprobs": Logprobs(prompt=-1)}, "logprobs.prompt: found -1, expected 0 to 20"),
    ],
)
def test_a_wrong_request_is_refused_by_field(
    engine: Engine, fields: dict[str, Any], message: str
) -> None:
    listener = Listener()
    engine.submit(GenerationRequest(TextPrompt("x"), **fields), listener)
    end = listener.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, InvalidRequestError)
    assert message in str(end.error)
