"""Fixtures of the service's tests: an event loop, and a server that does as it is told."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._service.access import TokenFile
from jang_runtime._service.calls import CallInterceptor, current_call
from jang_runtime._service.logs import JsonFormatter
from jang_runtime._service.metrics import Metrics
from jang_runtime._service.standards import Health, add_health, add_reflection

Run = Callable[[Callable[[], Awaitable[None]]], None]
# What a call does before it is answered: something, or it fails.
Script: TypeAlias = Callable[[], Awaitable[None]] | Exception


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs coroutines in one event loop: events that gRPC has for a closed one would be lost."""
    with asyncio.Runner() as runner:

        def run_one(test: Callable[[], Awaitable[None]]) -> None:
            async def bounded() -> None:
                await asyncio.wait_for(test(), 60)

            runner.run(bounded())

        yield run_one
        runner.run(asyncio.sleep(0.1))


class Scripted(runtime_pb2_grpc.RuntimeServiceServicer):
    """Does what the text of a prompt names, or fails of it, then answers."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self.scripts = scripts
        self.closed = asyncio.Event()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        try:
            await self._run(request.prompt.text)
        finally:
            self.closed.set()
        return pb.GenerateResponse(text=current_call().request_id)

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        try:
            if request.prompt.text.startswith("later "):
                yield pb.GenerateStreamResponse(started=pb.Started(request_id="first"))
            await self._run(request.prompt.text.removeprefix("later "))
            while request.prompt.text == "endless":
                yield pb.GenerateStreamResponse(delta=pb.Delta(text="x" * 100_000))
            yield pb.GenerateStreamResponse(finished=pb.Finished())
        finally:
            self.closed.set()

    async def _run(self, name: str) -> None:
        script = self.scripts.get(name)
        if isinstance(script, Exception):
            raise script
        if script is not None:
            await script()


@dataclass
class CallService:
    """A server with nothing behind the interceptor but scripts, and a client of it."""

    stub: runtime_pb2_grpc.RuntimeServiceStub
    channel: grpc.aio.Channel
    address: str
    metrics: Metrics
    health: Health
    servicer: Scripted
    log: io.StringIO = field(default_factory=io.StringIO)

    def generate(self, text: str, **options: Any) -> Any:
        """A call of Generate with this prompt."""
        return self.stub.Generate(pb.GenerateRequest(prompt=pb.Prompt(text=text)), **options)

    def stream(self, text: str, **options: Any) -> Any:
        """The same of GenerateStream."""
        message = pb.GenerateStreamRequest(prompt=pb.Prompt(text=text))
        return self.stub.GenerateStream(message, **options)

    def lines(self, event: str = "call") -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]

    async def line(self, number: int = 1) -> dict[str, Any]:
        """The line of the so-manieth call; the client may have its answer a moment before."""
        while len(self.lines()) < number:
            await asyncio.sleep(0.01)
        return self.lines()[number - 1]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    async def failure(self, call: Any) -> tuple[grpc.aio.AioRpcError, dict[str, Any]]:
        """The error that ends a call, and its details by the name of their type."""
        try:
            if isinstance(call, grpc.aio.UnaryStreamCall | grpc.aio.StreamStreamCall):
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error, _details_of(error)
        raise AssertionError("the call did not fail")


def _details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    if packed is None:
        return {}
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    details = {}
    for any_ in status.details:
        name = any_.type_url.rpartition(".")[2]
        details[name] = getattr(error_details_pb2, name).FromString(any_.value)
    return details


@asynccontextmanager
async def _service(
    tokens: TokenFile | None = None,
    stall_seconds: float = 60.0,
    **scripts: Script,
) -> AsyncIterator[CallService]:
    log = io.StringIO()
    logger = logging.Logger("edge", logging.INFO)
    handler = logging.StreamHandler(log)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    metrics, servicer = Metrics(), Scripted(scripts)
    server = grpc.aio.server(interceptors=[CallInterceptor(tokens, metrics, logger, stall_seconds)])
    runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
    health = add_health(server)
    add_reflection(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
            yield CallService(stub, channel, address, metrics, health, servicer, log)
    finally:
        await server.stop(None)


@pytest.fixture
def service() -> Callable[..., AbstractAsyncContextManager[CallService]]:
    """Serves scripts: `async with service(bad=error) as served`, then `served.generate("bad")`."""
    return _service
