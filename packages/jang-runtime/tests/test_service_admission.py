"""The door of a server: who is inside, and what other threads see of it."""

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import Engine, EngineOptions, Server, ServiceOptions
from jang_runtime._service.admission import Admission

Serving = Callable[..., AbstractContextManager[Server]]


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
        admission = Admission(max_queued=1000, max_active=1)
        admission.open_door()
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
