"""Who watches health hears of every change; there are not too many of them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from runpy import run_path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jang_runtime._service.standards import RUNTIME_SERVICE

Run = Callable[[Callable[[], Awaitable[None]]], None]
Service = Callable[..., AbstractAsyncContextManager[Any]]

SCRIPTED = run_path(str(Path(__file__).parent / "scripted_service.py"))
run, service = SCRIPTED["run"], SCRIPTED["service"]


def test_every_watcher_hears_of_every_change_though_others_come_and_go(
    run: Run, service: Service
) -> None:
    async def test() -> None:
        async with service() as served:
            stub = health_pb2_grpc.HealthStub(served.channel)
            asked = health_pb2.HealthCheckRequest(service=RUNTIME_SERVICE)
            gone, stays, unknown = (
                stub.Watch(asked),
                stub.Watch(asked),
                stub.Watch(health_pb2.HealthCheckRequest(service="nothing")),
            )
            response = health_pb2.HealthCheckResponse
            assert (await gone.read()).status == response.NOT_SERVING
            assert (await stays.read()).status == response.NOT_SERVING
            assert (await unknown.read()).status == response.SERVICE_UNKNOWN
            gone.cancel()
            await asyncio.sleep(0.1)
            served.health.set(True)
            assert (await stays.read()).status == response.SERVING
            for name in ("", RUNTIME_SERVICE):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == response.SERVING
            error, _ = await served.failure(
                stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
            )
            assert error.code() is grpc.StatusCode.NOT_FOUND
            served.health.end()
            assert (await stays.read()).status == response.NOT_SERVING
            for watcher in (stays, unknown):
                assert await watcher.read() == grpc.aio.EOF
                assert await watcher.code() is grpc.StatusCode.OK

    run(test)


def test_a_watcher_too_many_is_refused_until_another_one_goes(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._service.standards._MOST_WATCHERS", 2)

    async def test() -> None:
        async with service() as served:
            stub = health_pb2_grpc.HealthStub(served.channel)
            asked = health_pb2.HealthCheckRequest()
            watchers = [stub.Watch(asked) for _ in range(2)]
            for watcher in watchers:
                assert await watcher.read()
            error, _ = await served.failure(stub.Watch(asked))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "watchers: found 2, expected fewer than 2" in error.details()
            assert await stub.Check(asked)
            watchers[0].cancel()
            while True:
                another = stub.Watch(asked)
                if await another.read():
                    break
                await asyncio.sleep(0.01)

    run(test)
