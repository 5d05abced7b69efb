"""What is cancelled leaves its place to others within a step; what is beyond a limit gets none."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import (
    Delta,
    Engine,
    EngineOptions,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    InvalidRequestError,
    LogitsRequest,
    Logprobs,
    Sampling,
    ScoreRequest,
    Server,
    Started,
    Stopping,
    Ticket,
    TokenPrompt,
)
from jang_runtime._requests import Request
from jang_runtime._scheduler import Scheduler
from jang_runtime.terminal import stream_events

PROMPT = TokenPrompt((40, 41))


class Steps:
    """Counts the engine's steps, and notes in which requests were cancelled and last open."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled_in: dict[Ticket, int] = {}
        self.last_open: dict[Ticket, int] = defaultdict(int)

    def after_cancel(self) -> int:
        """At the end of how many steps, begun after it was cancelled, the first one was open."""
        first = min(self.cancelled_in, key=lambda ticket: ticket.arrived)
        return self.last_open[first] - self.cancelled_in[first]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    counted = Steps()
    step, cancel = Scheduler.step, Ticket.cancel

    def count(self: Scheduler, outside: Any) -> None:
        counted.begun += 1
        step(self, outside)
        for ticket in self.open_tickets():
            counted.last_open[ticket] = counted.begun
        # As with larger models, so that calls end in the middle of an answer.
        time.sleep(0.002)

    def note(self: Ticket) -> None:
        counted.cancelled_in.setdefault(self, counted.begun)
        cancel(self)

    monkeypatch.setattr(Scheduler, "step", count)
    monkeypatch.setattr(Ticket, "cancel", note)
    return counted


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model, options=EngineOptions(max_active=1)) as running:
        yield running


@pytest.mark.parametrize(
    ("prompt", "moment"),
    [(PROMPT, Delta), (TokenPrompt((5,) * 480), Started)],
    ids=["decoding", "in its prompt"],
)
def test_a_cancelled_request_does_nothing_in_the_step_after_that(
    engine: Engine, steps: Steps, prompt: TokenPrompt, moment: type[Event]
) -> None:
    tickets: list[Ticket] = []
    submitted, ended = threading.Event(), threading.Event()
    events: list[Event] = []

    def listen(event: Event) -> None:
        assert submitted.wait(20)
        events.append(event)
        if isinstance(event, moment) and not steps.cancelled_in:
            tickets[0].cancel()
        if isinstance(event, Finished):
            ended.set()

    stopping = Stopping(max_tokens=20, ignore_eos=True)
    tickets.append(engine.submit(GenerationRequest(prompt, stopping=stopping), listen))
    submitted.set()
    assert ended.wait(20)
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
    deltas = [event for event in events if isinstance(event, Delta)]
    assert len(deltas) == (moment is Delta)
    assert last.completion_tokens == sum(len(delta.token_ids) for delta in deltas)
    # It was open at the end of the step in which it was cancelled, and of none after that.
    assert steps.after_cancel() == 0


@pytest.mark.parametrize(
    ("timeout", "code"),
    [(None, grpc.StatusCode.CANCELLED), (0.4, grpc.StatusCode.DEADLINE_EXCEEDED)],
    ids=["cancelled", "past its deadline"],
)
def test_a_call_that_ends_while_it_generates_frees_its_place_within_a_step(
    engine: Engine,
    steps: Steps,
    timeout: float | None,
    code: grpc.StatusCode,
    serving: Callable[..., AbstractContextManager[Server]],
) -> None:
    request = pb.GenerateStreamRequest(
        prompt=pb.Prompt(text="hello"), stopping=pb.Stopping(max_tokens=500, ignore_eos=True)
    )
    with serving(engine) as server, grpc.insecure_channel(server.address) as channel:
        stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
        call = stub.GenerateStream(request, timeout=timeout)
        with pytest.raises(grpc.RpcError) as caught:
            for event in call:
                if event.HasField("delta") and timeout is None:
                    call.cancel()
        assert caught.value.code() == code  # type: ignore[attr-defined]
        # The only place: it is to be had before the first request would have come to its end.
        next_one = stub.Generate(
            pb.GenerateRequest(prompt=pb.Prompt(text="a"), stopping=pb.Stopping(max_tokens=1))
        )
        assert next_one.finished.usage.completion_tokens == 1
        # A step may have begun, with what was known then, while the news was under way.
        assert steps.after_cancel() <= 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            GenerationRequest(PROMPT, stopping=Stopping(stop_token_ids=tuple(range(65)))),
            "stopping.stop_token_ids: found 65 tokens, expected at most 64",
        ),
        (
            GenerationRequest(PROMPT, sampling=Sampling(logit_bias=dict.fromkeys(range(1025), 1))),
            "sampling.logit_bias: found 1025 tokens, expected at most 1024",
        ),
        (
            ScoreRequest(PROMPT, ((50,),) * 1025),
            "continuations: found 1025, expected 1 to 1024",
        ),
        (ScoreRequest(PROMPT, ()), "continuations: found 0, expected 1 to 1024"),
    ],
)
def test_more_than_a_request_may_have_is_refused_with_the_limit(
    engine: Engine, request_: GenerationRequest | ScoreRequest, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        list(stream_events(engine, request_))


def test_as_much_as_a_request_may_have_is_taken(engine: Engine) -> None:
    stopping = Stopping(max_tokens=1, stop_token_ids=tuple(range(64)))
    bias = dict.fromkeys(range(384), 1.0)
    generation = GenerationRequest(PROMPT, Sampling(logit_bias=bias), stopping)
    assert isinstance(list(stream_events(engine, generation))[-1], Finished)
    scores = list(stream_events(engine, ScoreRequest(PROMPT, ((50,),) * 1024)))
    assert len(scores) == 1 + 1024 + 1


def test_those_whose_results_nobody_reads_take_no_place_from_others(tiny_model: Path) -> None:
    decoding: list[int] = []
    ended: SimpleQueue[Event] = SimpleQueue()
    are_read = threading.Event()
    with Engine(tiny_model, options=EngineOptions(max_active=2, prefix_cache_bytes=0)) as engine:

        def listen(event: Event) -> None:
            decoding.append(engine.statistics().decoding)
            if isinstance(event, Finished | Failed):
                ended.put(event)

        stopping = Stopping(max_tokens=20, ignore_eos=True)
        unread: list[Request] = [
            LogitsRequest(PROMPT),
            *[GenerationRequest(PROMPT, stopping=stopping, logprobs=Logprobs(prompt=1))] * 4,
        ]
        tickets = [engine.submit(each, listen, are_read.is_set) for each in unread]
        for _ in range(3):
            (*_, finished) = stream_events(engine, GenerationRequest(PROMPT, stopping=stopping))
            assert isinstance(finished, Finished)
            assert finished.completion_tokens == 20
        # Once they are read they run, as many at once as there are places.
        assert ended.empty()
        are_read.set()
        tickets[0].wake()
        last = [ended.get(timeout=20) for _ in tickets]
    assert all(isinstance(each, Finished) for each in last)
    assert max(decoding) == 2
