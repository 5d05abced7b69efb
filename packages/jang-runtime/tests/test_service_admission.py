"""The door of a server: who is inside, and what other threads see of it."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import (
    Client,
    Engine,
    EngineOptions,
    QueueFullError,
    RetryPolicy,
    Server,
    ServerError,
    ServiceOptions,
)
from jang_runtime._scheduler import Scheduler
from jang_runtime._service.admission import Admission
from jang_runtime._service.texts import Texts

Serving = Callable[..., AbstractContextManager[Server]]
ENDLESS = pb.Stopping(max_tokens=500, ignore_eos=True)
ONCE = RetryPolicy(tries=1)


def inside(client: Client) -> int:
    load = client.server_info().load
    return load.queued + load.active


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_page_of_metrics_counts_requests_while_they_come_and_go() -> None:
    faults: list[BaseException] = []
    wrong: list[tuple[int, int]] = []
    is_over = threading.Event()

    def scrape(admission: Admission) -> None:
        while not is_over.is_set():
            try:
                seen = admission.queued, admission.active
            except RuntimeError as error:
                faults.append(error)
                return
            if not all(0 <= count <= 200 for count in seen):
                wrong.append(seen)

    async def come_and_go() -> None:
        admission = Admission(max_queued=1000, max_characters=1)
        admission.open_door(places=1)
        reader = threading.Thread(target=scrape, args=(admission,))
        reader.start()
        for _ in range(50):
            await asyncio.gather(*(one(admission, str(name)) for name in range(200)))
        assert (admission.queued, admission.active, admission.open) == (0, 0, 0)
        is_over.set()
        reader.join()

    async def one(admission: Admission, name: str) -> None:
        with admission.enter("", name) as entry:
            await asyncio.sleep(0)
            if int(name) % 2:
                admission.begin(entry)
            await asyncio.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asyncio.run(come_and_go())
    finally:
        is_over.set()
        sys.setswitchinterval(interval)
    assert not faults
    assert not wrong


def test_one_connection_has_as_many_calls_at_once_as_have_places_and_some_more(
    tiny_model: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._service.server._STREAMS_WITHOUT_PLACES", 2)
    alone = [("grpc.use_local_subchannel_pool", 1)]
    with (
        Engine(tiny_model, options=EngineOptions(max_active=1)) as engine,
        serving(engine, ServiceOptions(max_queued=1)) as server,
        grpc.insecure_channel(server.address, alone) as channel,
        grpc.insecure_channel(server.address, alone) as other,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watchers = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(4)]
        for watcher in watchers:
            assert next(watcher)
        asked = pb.GetServerInfoRequest()
        with pytest.raises(grpc.RpcError) as caught:
            runtime_pb2_grpc.RuntimeServiceStub(channel).GetServerInfo(asked, timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
        assert runtime_pb2_grpc.RuntimeServiceStub(other).GetServerInfo(asked, timeout=10)
        watchers[0].cancel()
        assert runtime_pb2_grpc.RuntimeServiceStub(channel).GetServerInfo(asked, timeout=10)


def test_a_model_that_runs_one_request_at_a_time_has_one_place(
    tiny_model: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Scheduler.step

    def slow(self: Scheduler, outside: Any) -> None:
        time.sleep(0.02)
        step(self, outside)

    monkeypatch.setattr(Scheduler, "step", slow)
    monkeypatch.setattr("jang_runtime._scheduler.why_alone", lambda *_: "it is said so")
    with (
        Engine(tiny_model, options=EngineOptions(max_active=16)) as engine,
        serving(engine, ServiceOptions(max_queued=2)) as server,
        Client(server.address, retries=ONCE) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert client.server_info().limits.max_active == 1
        stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
        asked = pb.GenerateRequest(prompt=pb.Prompt(text="hello"), stopping=ENDLESS)
        calls = [stub.Generate.future(asked) for _ in range(3)]
        wait_until(lambda: inside(client) == 3)
        with pytest.raises(ServerError, match="queue: found it full, expected at most 3") as caught:
            client.generate("hello", stopping=pb.Stopping(max_tokens=1))
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after
        for call in calls:
            call.cancel()


def test_a_caller_is_told_to_wait_until_a_place_should_be_free() -> None:
    """All have ended after a second: of those inside, 8 end in each second."""

    async def come() -> float:
        admission = Admission(max_queued=6, max_characters=1)
        admission.open_door(places=2)
        with ExitStack() as inside:
            for name in range(8):
                inside.enter_context(admission.enter("", str(name)))
            with pytest.raises(QueueFullError) as caught, admission.enter("", "one too many"):
                pass
        return caught.value.retry_after

    assert asyncio.run(come()) == pytest.approx(1 / 8)


def test_texts_of_any_length_have_room_together_for_so_much_and_give_it_back() -> None:
    async def come() -> None:
        admission = Admission(max_queued=6, max_characters=100)
        admission.open_door(places=2)
        with admission.enter("", "first", 60), admission.enter("", "short", 40):
            expected = "queue: found it full, expected at most 100 characters of texts"
            with (
                pytest.raises(QueueFullError, match=expected),
                admission.enter("", "too much", 1),
            ):
                pass
            with admission.enter("", "without text"):
                pass
        with admission.enter("", "all of it", 100):
            pass

    asyncio.run(come())


def test_tokenize_is_held_to_what_waits_already(
    tiny_model: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    async def slowly(*_: object) -> list[int]:
        return await asyncio.to_thread(lambda: go_on.wait(20) * [5])

    monkeypatch.setattr(Texts, "tokenize", slowly)
    text = "x" * 1000
    with (
        Engine(tiny_model) as engine,
        serving(engine, ServiceOptions(max_message_bytes=1100)) as server,
        Client(server.address, retries=ONCE) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
        asked = pb.TokenizeRequest(prompt=pb.Prompt(text=text))
        waiting = [stub.Tokenize.future(asked) for _ in range(4)]
        wait_until(lambda: inside(client) == 4)
        with pytest.raises(ServerError, match="characters of texts") as caught:
            client.tokenize(text)
        assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        # What is no text of any length is let in.
        assert client.generate("x", stopping=pb.Stopping(max_tokens=1)).token_ids
        go_on.set()
        assert all(each.result(timeout=10) for each in waiting)


def test_the_wait_of_those_who_leave_the_queue_is_counted(
    tiny_model: Path, serving: Serving
) -> None:
    with (
        Engine(tiny_model, options=EngineOptions(max_active=1)) as engine,
        serving(engine) as server,
        Client(server.address, retries=ONCE) as client,
    ):
        waited = partial(server.metrics.registry.get_sample_value, "jang_queue_seconds_count")
        stream = client.stream("hello", stopping=ENDLESS, request_id="first")
        next(stream)
        with pytest.raises(ServerError):
            client.generate("hello", stopping=ENDLESS, timeout=0.05)
        wait_until(lambda: waited() == 1)
        stream.close()


def test_a_small_message_that_grows_beyond_the_limit_when_unpacked_is_refused(
    tiny_model: Path, serving: Serving
) -> None:
    with (
        Engine(tiny_model) as engine,
        serving(engine, ServiceOptions(max_message_bytes=10_000)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
        for length, code in ((1000, None), (20_000, grpc.StatusCode.RESOURCE_EXHAUSTED)):
            asked = pb.TokenizeRequest(prompt=pb.Prompt(text="x" * length))
            call = stub.Tokenize.future(asked, compression=grpc.Compression.Gzip)
            error = call.exception(timeout=10)
            assert (error and error.code()) is code
