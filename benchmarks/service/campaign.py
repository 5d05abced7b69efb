"""The load test: warm up, send the requests, and account for every one of them."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import grpc.aio

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from service.calling import Result, perform
from service.drawing import plans, twins
from service.plans import Plan, Served
from service.processes import RunningServer

# Connections over which the requests are spread; Abort has one of its own.
_CONNECTIONS: Final = 8
_SETTLE_SECONDS: Final = 10.0
# Longer than the engine keeps memory for requests that may come.
_REST_SECONDS: Final = 2.0
# What has to be zero when nothing is under way.
IDLE: Final = (
    "jang_queued_requests",
    "jang_active_requests",
    "jang_open_calls",
    "jang_engine_queued_requests",
    "jang_engine_active_requests",
    "jang_engine_decoding_requests",
    "jang_cache_reserved_bytes",
)


@dataclass(frozen=True)
class Sample:
    """The server with nothing under way.

    Attributes:
        requests: Sent before.
        resident: Bytes of its resident memory.
        mlx: Bytes that MLX holds.
        files: Its open files and sockets.
    """

    requests: int
    resident: int
    mlx: int
    files: int


@dataclass
class Record:
    """What a load test found.

    Attributes:
        results: One for each request that was sent.
        samples: After the warm-up, and after each part of the rest.
        busy: What was not zero at one of these moments, and how much; has to be empty.
        metrics: Of the server at the end.
        server: What the server said of itself.
        seconds: How long the requests took.
        is_whole: Whether all requests were sent within the time limit.
    """

    results: list[Result] = field(default_factory=list[Result])
    samples: list[Sample] = field(default_factory=list[Sample])
    busy: dict[str, float] = field(default_factory=dict[str, float])
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    server: pb.GetServerInfoResponse = field(default_factory=pb.GetServerInfoResponse)
    seconds: float = 0.0
    is_whole: bool = True


@dataclass(frozen=True)
class Size:
    """How large a load test is.

    Attributes:
        requests: To send.
        at_once: Under way at a time.
        parts: After each of which the server is looked at with nothing under way.
        warm_up: Requests of the same kinds before them, accounted for too.
        seed: Of everything that is drawn.
        seconds: After which no more requests are sent.
    """

    requests: int
    at_once: int
    parts: int
    warm_up: int
    seed: int
    seconds: float


async def campaign(server: RunningServer, size: Size, show: Callable[[int], None]) -> Record:
    """Send the requests of a load test.

    Args:
        server: With nothing to do.
        size: How many.
        show: Told how many have ended, again and again.
    """
    record = Record()
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(_channel(server.address, number))
            for number in range(_CONNECTIONS + 1)
        ]
        stub: Any = runtime_pb2_grpc.RuntimeServiceStub(channels[-1])
        served = await _served(stub)
        known = [await stub.Generate(request) for request in twins(served)]
        begun = time.monotonic()
        total = size.warm_up + size.requests
        drawn = plans(total, size.seed, served)
        for count in [size.warm_up, *[size.requests // size.parts] * size.parts]:
            part = list(islice(drawn, count))
            ended_by = begun + size.seconds
            await _send(part, channels, known, size.at_once, ended_by, record, show)
            record.server = await _idle(stub, server, record)
            await asyncio.sleep(_REST_SECONDS)
            record.metrics = await asyncio.to_thread(server.metrics)
            record.samples.append(_sample(len(record.results), record.metrics))
        record.seconds = time.monotonic() - begun
        record.is_whole = len(record.results) == total
    return record


def _channel(address: str, number: int) -> grpc.aio.Channel:
    # Channels with the same arguments would share a connection.
    return grpc.aio.insecure_channel(address, options=[("jang.number", number)])


async def _served(stub: Any) -> Served:
    info = await stub.GetModelInfo(pb.GetModelInfoRequest())
    limits = (await stub.GetServerInfo(pb.GetServerInfoRequest())).limits
    return Served(
        vocabulary_size=info.vocabulary_size,
        context_length=info.context_length,
        max_prompt_tokens=limits.max_prompt_tokens,
        max_message_bytes=limits.max_message_bytes,
    )


async def _send(
    part: Sequence[Plan],
    channels: Sequence[grpc.aio.Channel],
    known: Sequence[pb.GenerateResponse],
    at_once: int,
    ended_by: float,
    record: Record,
    show: Callable[[int], None],
) -> None:
    """Send some requests, so many at a time, until a moment."""
    waiting: Iterator[Plan] = iter(part)

    async def work(number: int) -> None:
        channel = channels[number % _CONNECTIONS]
        for plan in waiting:
            if time.monotonic() > ended_by:
                return
            result = await perform(plan, channel, channels[-1], known)
            record.results.append(result)
            show(len(record.results))
            if result.retry_after is not None:
                await asyncio.sleep(result.retry_after)

    await asyncio.gather(*(work(number) for number in range(at_once)))


async def _idle(stub: Any, server: RunningServer, record: Record) -> pb.GetServerInfoResponse:
    """Wait until the server has let go of everything, or note what it holds on to."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
        metrics = await asyncio.to_thread(server.metrics)
        busy = {name: metrics[name] for name in IDLE if metrics[name]}
        load = info.load
        if load.queued or load.active or load.cache_bytes_reserved:
            busy["GetServerInfo"] = load.queued + load.active + load.cache_bytes_reserved
        if not busy or time.monotonic() > deadline:
            record.busy |= busy
            return info
        await asyncio.sleep(0.05)


def _sample(requests: int, metrics: Mapping[str, float]) -> Sample:
    return Sample(
        requests=requests,
        resident=int(metrics["process_resident_memory_bytes"]),
        mlx=int(metrics["jang_mlx_memory_bytes"]),
        files=int(metrics["process_open_fds"]),
    )
