"""The work for a call ends when its client has gone, does not read, or has waited long enough."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from runpy import run_path
from typing import Any

import grpc

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc

Run = Callable[[Callable[[], Awaitable[None]]], None]
Service = Callable[..., AbstractAsyncContextManager[Any]]

SCRIPTED = run_path(str(Path(__file__).parent / "scripted_service.py"))
run, service = SCRIPTED["run"], SCRIPTED["service"]


async def wait_forever() -> None:
    await asyncio.Event().wait()


def test_a_client_that_goes_away_ends_the_work_at_once(run: Run, service: Service) -> None:
    async def test() -> None:
        async with service(wait=wait_forever) as served:
            for number, method in enumerate((served.generate, served.stream), start=1):
                served.servicer.closed.clear()
                call = method("wait")
                while served.value("jang_open_calls") == 0:
                    await asyncio.sleep(0.01)
                call.cancel()
                await asyncio.wait_for(served.servicer.closed.wait(), 2)
                assert (await served.line(number))["code"] == "CANCELLED"
            assert served.value("jang_open_calls") == 0

    run(test)


def test_a_client_that_does_not_read_and_goes_away_ends_the_work_at_once(
    run: Run, service: Service
) -> None:
    async def test() -> None:
        async with service() as served:
            call = served.stream("endless")
            await call.read()
            # Until the windows of the connection are full and the server waits in a write.
            await asyncio.sleep(0.2)
            assert not served.servicer.closed.is_set()
            call.cancel()
            await asyncio.wait_for(served.servicer.closed.wait(), 2)
            assert (await served.line())["code"] == "CANCELLED"

    run(test)


def test_a_client_that_takes_nothing_for_too_long_loses_its_call_and_is_told_when_it_reads(
    run: Run, service: Service
) -> None:
    async def test() -> None:
        async with service(stall_seconds=0.3) as served:
            call = served.stream("endless")
            await asyncio.wait_for(served.servicer.closed.wait(), 2)
            line = await served.line()
            assert (line["code"], line["reason"]) == ("RESOURCE_EXHAUSTED", "SLOW_READER")
            assert served.value("jang_open_calls") == 0
            error, details = await served.failure(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details["ErrorInfo"].reason == "SLOW_READER"
            # One that reads slower than the limit, but reads, goes on.
            served.servicer.closed.clear()
            small = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
            async with grpc.aio.insecure_channel(served.address, small) as channel:
                request = pb.GenerateStreamRequest(prompt=pb.Prompt(text="endless"))
                stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
                slow = stub.GenerateStream(request)
                for _ in range(8):
                    assert (await slow.read()).delta.text
                    await asyncio.sleep(0.1)
                assert not served.servicer.closed.is_set()

    run(test)


def test_a_deadline_ends_the_work_and_is_counted_as_one(run: Run, service: Service) -> None:
    async def test() -> None:
        async with service(wait=wait_forever) as served:
            error, _ = await served.failure(served.generate("wait", timeout=0.3))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(served.servicer.closed.wait(), 2)
            line = await served.line()
            assert line["code"] == "DEADLINE_EXCEEDED"
            assert 0.2 < line["seconds"] < 2
            count = served.value("jang_calls_total", method="Generate", code="DEADLINE_EXCEEDED")
            assert count == 1

    run(test)
