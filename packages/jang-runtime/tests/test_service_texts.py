"""Texts of any length hold up nobody: what is tokenized when, what is refused, what is stopped."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import (
    Client,
    Engine,
    EngineOptions,
    RetryPolicy,
    Server,
    ServerError,
    ServiceOptions,
)
from jang_runtime import _prompts as prompts

Serving = Callable[..., AbstractContextManager[Server]]
Stub = runtime_pb2_grpc.RuntimeServiceStub
ONCE = RetryPolicy(tries=1)
FEW = pb.Stopping(max_tokens=2)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


@pytest.fixture
def server(engine: Engine, serving: Serving) -> Iterator[Server]:
    with serving(engine) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, retries=ONCE) as calling:
        yield calling


@pytest.fixture
def stub(server: Server) -> Iterator[Stub]:
    with grpc.insecure_channel(server.address) as channel:
        yield Stub(channel)


class Gate:
    """Lets the server's tokenizer for requests stop at one text until the test goes on."""

    thread = "jang-texts"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
        self.seen: list[str] = []
        self.reached, self.go_on = threading.Event(), threading.Event()
        tokenize = prompts.tokenize

        def gated(tokenizer: Any, field: str, prompt: Any) -> list[int]:
            if threading.current_thread().name.startswith(self.thread):
                self.seen.append(prompt.text)
                if prompt.text == at:
                    self.reached.set()
                    assert self.go_on.wait(20)
            return tokenize(tokenizer, field, prompt)

        monkeypatch.setattr(prompts, "tokenize", gated)
        monkeypatch.setattr("jang_runtime._service.texts.tokenize", gated)


class OtherGate(Gate):
    """The same for the tokenizer of calls that want no more than tokens or text."""

    thread = "jang-other-texts"


def wait_until_open(client: Client, count: int) -> None:
    """Until so many requests are inside, each with its first text on its way to the tokenizer."""
    end = time.monotonic() + 10
    while True:
        load = client.server_info().load
        if load.queued + load.active == count:
            # One more turn of the server's loop.
            client.server_info()
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def score_request(count: int) -> pb.ScoreRequest:
    continuations = [pb.Continuation(text=f" {number}") for number in range(count)]
    return pb.ScoreRequest(context=pb.Prompt(text="a"), continuations=continuations)


def test_the_text_of_another_request_comes_between_the_continuations_of_a_score(
    client: Client, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, at="a 2")
    scored = stub.Score.future(score_request(50))
    assert gate.reached.wait(10)
    answered = stub.Generate.future(
        pb.GenerateRequest(prompt=pb.Prompt(text="short"), stopping=FEW)
    )
    wait_until_open(client, 2)
    gate.go_on.set()
    assert answered.result().token_ids
    assert len(scored.result().scores) == 50
    assert gate.seen[:5] == ["a", "a 0", "a 1", "a 2", "short"]


@pytest.mark.parametrize("way", ["cancel", "deadline", "abort"])
def test_the_texts_of_a_request_that_is_stopped_are_not_tokenized(
    client: Client, stub: Stub, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    gate = Gate(monkeypatch, at="a 2")
    timeout = 1.0 if way == "deadline" else None
    metadata = (("x-request-id", "mine"),)
    scored = stub.Score.future(score_request(50), timeout=timeout, metadata=metadata)
    assert gate.reached.wait(10)
    if way == "cancel":
        scored.cancel()
    elif way == "abort":
        assert client.abort("mine")
        assert scored.exception().code() is grpc.StatusCode.CANCELLED
    wait_until_open(client, 0)
    gate.go_on.set()
    assert client.generate("next", stopping=FEW).token_ids
    assert gate.seen == ["a", "a 0", "a 1", "a 2", "next"]


def test_a_generation_that_is_aborted_before_it_has_tokens_ends_as_any_other(
    client: Client, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, at="hello")
    request = pb.GenerateRequest(prompt=pb.Prompt(text="hello"))
    answered = stub.Generate.future(request, metadata=(("x-request-id", "mine"),))
    assert gate.reached.wait(10)
    assert client.abort("mine")
    assert answered.result().finished.finish_reason == pb.FINISH_REASON_CANCELLED
    gate.go_on.set()


def test_requests_in_tokens_wait_for_no_text(
    client: Client, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, at="hello")
    waiting = stub.Generate.future(pb.GenerateRequest(prompt=pb.Prompt(text="hello"), stopping=FEW))
    assert gate.reached.wait(10)
    assert client.generate([5, 6, 7], stopping=FEW, timeout=10).token_ids
    assert len(client.score([5, 6], [[7], [8, 9]], timeout=10)) == 2
    gate.go_on.set()
    assert waiting.result().token_ids


def test_continuations_that_are_too_long_are_refused_before_they_are_tokenized(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._service.texts.in_steps", None)
    # A token of this model is one byte, or one of two marks of four.
    with pytest.raises(ServerError, match="found 513 or more tokens, expected at most") as caught:
        client.score("a", ["b", "y" * 4 * 513])
    assert caught.value.field == "continuations[1]"
    monkeypatch.setattr("jang_runtime._service.lengths.MAX_CONTINUATION_TOKENS", 1000)
    for many, found in ((["y" * 2000] * 3, "1500 or more tokens"), ([[5] * 501] * 2, "1002")):
        with pytest.raises(ServerError, match=f"found {found}.* together") as caught:
            client.score("a", many)
        assert caught.value.field == "continuations"


def test_continuations_are_counted_once_more_when_they_are_tokens(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._service.lengths.MAX_CONTINUATION_TOKENS", 1000)
    with pytest.raises(ServerError, match="found 1500 tokens together, expected at most 1000"):
        client.score("a", ["y" * 500] * 3)


def tokenize_request(text: str) -> pb.TokenizeRequest:
    return pb.TokenizeRequest(prompt=pb.Prompt(text=text))


def test_a_text_of_any_length_is_tokenized_and_no_request_waits_for_it(
    client: Client, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = "x" * 5000
    gate = OtherGate(monkeypatch, at=document)
    tokens = stub.Tokenize.future(tokenize_request(document))
    assert gate.reached.wait(10)
    assert client.generate("hello", stopping=FEW, timeout=10).token_ids
    gate.go_on.set()
    assert len(tokens.result().token_ids) == 5000


def test_calls_for_tokens_and_texts_are_held_to_the_queue(
    tiny_model: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = OtherGate(monkeypatch, at="wait")
    options = EngineOptions(max_active=1)
    with (
        Engine(tiny_model, options=options) as engine,
        serving(engine, ServiceOptions(max_queued=2)) as server,
        Client(server.address, retries=ONCE) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        waiting = [Stub(channel).Tokenize.future(tokenize_request("wait")) for _ in range(3)]
        assert gate.reached.wait(10)
        wait_until_open(client, 3)
        refused: list[Callable[[], object]] = [
            lambda: client.tokenize("x"),
            lambda: client.detokenize([5]),
            lambda: client.apply_chat_template([("user", "x")]),
            lambda: client.generate("x"),
        ]
        for call in refused:
            with pytest.raises(ServerError) as caught:
                call()
            assert caught.value.reason == "QUEUE_FULL"
        gate.go_on.set()
        assert all(each.result().token_ids for each in waiting)
        wait_until_open(client, 0)


def drain(server: Server, seconds: float) -> Any:
    loop: asyncio.AbstractEventLoop = server.loop  # type: ignore[attr-defined]
    return asyncio.run_coroutine_threadsafe(server.drain(seconds), loop)


def test_a_server_that_ends_waits_for_calls_for_tokens_and_ends_those_that_take_too_long(
    engine: Engine, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in (60, 0.1):
        gate = OtherGate(monkeypatch, at="wait")
        with serving(engine) as server, grpc.insecure_channel(server.address) as channel:
            tokens = Stub(channel).Tokenize.future(tokenize_request("wait"))
            assert gate.reached.wait(10)
            drained = drain(server, seconds)
            if seconds == 60:
                time.sleep(0.1)
                assert not drained.done()
                gate.go_on.set()
                assert tokens.result().token_ids
            else:
                assert tokens.exception().code() is grpc.StatusCode.UNAVAILABLE
                assert "drain time is over" in tokens.exception().details()
            drained.result(10)
            gate.go_on.set()


def test_conversations_and_tokens_are_as_long_as_the_model_can_read(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.detokenize([70] * 512) == client.detokenize([70]) * 512
    too_long: list[tuple[Callable[[], object], str]] = [
        (lambda: client.detokenize([70] * 513), "token_ids: found 513 tokens"),
        (lambda: client.tokenize([70] * 513), "prompt: found 513 tokens"),
        (lambda: client.tokenize([("user", "x" * 600)]), "prompt: found 618 tokens"),
        (lambda: client.apply_chat_template([("user", "x" * 600)]), "chat: found 618 tokens"),
    ]
    for call, found in too_long:
        with pytest.raises(ServerError, match=f"{found}, expected at most 512"):
            call()
    monkeypatch.setattr("jang_runtime._service.texts.conversation_text", None)
    with pytest.raises(ServerError, match="chat: found 513 or more tokens"):
        client.apply_chat_template([("user", "x" * 4 * 513)])
