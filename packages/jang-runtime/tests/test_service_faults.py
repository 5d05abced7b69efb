"""Faults inside a real server: of one request, of the service, of the whole engine."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime import Client, Engine, RetryPolicy, Server, ServerError
from jang_runtime._generation import Generation
from jang_runtime._scheduler import Scheduler

Serving = Callable[..., AbstractContextManager[Server]]
ONCE = RetryPolicy(tries=1)
ENDLESS = pb.Stopping(max_tokens=400, ignore_eos=True)
FEW = pb.Stopping(max_tokens=2)
SECRET = "words of the prompt"


@pytest.fixture
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


def failure(work: Callable[[], Any]) -> ServerError:
    with pytest.raises(ServerError) as caught:
        work()
    return caught.value


def test_a_request_that_fails_in_the_engine_fails_alone_and_the_log_has_the_reason(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take = Generation.take

    def fragile(self: Generation, token: Any) -> bool:
        if self.prompt_tokens == 13 and self.ticket.request.stopping.max_tokens == 400:  # type: ignore[union-attr]
            raise ZeroDivisionError(SECRET)
        return take(self, token)

    monkeypatch.setattr(Generation, "take", fragile)
    other = client.stream("hello", stopping=ENDLESS)
    next(other)
    for ask in (client.generate, lambda *given, **more: list(client.stream(*given, **more))):
        error = failure(lambda ask=ask: ask("x" * 13, stopping=ENDLESS))
        assert (error.code, error.reason) == ("INTERNAL", "GENERATION_FAILED")
        # What the exception says may be of the prompt.
        assert "ZeroDivisionError" in str(error)
        assert SECRET not in str(error)
    assert SECRET in caplog.text
    assert list(other)[-1].finished.usage.completion_tokens == 400
    assert client.server_info().load.active == 0


def test_a_fault_of_the_service_is_an_internal_error_without_its_words(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(SECRET)

    with monkeypatch.context() as patched:
        patched.setattr("jang_runtime._service.running._check_asked", broken)
        error = failure(lambda: client.generate("x", stopping=FEW))
        assert (error.code, error.reason) == ("INTERNAL", "INTERNAL_ERROR")
        assert "ZeroDivisionError" not in str(error)
        assert SECRET in caplog.text
    assert client.generate("x", stopping=FEW).token_ids


def test_a_server_in_a_program_of_ones_own_says_so_when_its_engine_has_died(
    engine: Engine,
    server: Server,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[int] = []
    stream = client.stream("hello", stopping=ENDLESS)
    next(stream)

    def mortal(*_: object) -> None:
        raise KeyboardInterrupt("something no request is to blame for")

    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watching = health.Watch(health_pb2.HealthCheckRequest())
        seen.append(next(watching).status)
        with caplog.at_level(logging.CRITICAL):
            monkeypatch.setattr(Scheduler, "step", mortal)
            ended = failure(lambda: list(stream))
            assert (ended.code, ended.reason) == ("UNAVAILABLE", "ENGINE_STOPPED")
            seen.append(next(watching).status)
        answer = health.Check(health_pb2.HealthCheckRequest())
        watching.cancel()
    response = health_pb2.HealthCheckResponse
    assert seen == [response.SERVING, response.NOT_SERVING]
    assert answer.status == response.NOT_SERVING
    refused = failure(lambda: client.generate("x"))
    assert (refused.code, refused.reason) == ("UNAVAILABLE", "ENGINE_STOPPED")
    end = time.monotonic() + 10
    while engine.is_alive:
        assert time.monotonic() < end
        time.sleep(0.01)
