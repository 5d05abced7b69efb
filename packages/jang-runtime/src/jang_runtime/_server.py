"""The gRPC server: an event loop that passes messages between clients and one engine."""

import asyncio
import ipaddress
import logging
import signal
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, TypeAlias

import grpc

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._engine import Engine
from jang_runtime._errors import (
    EngineStoppedError,
    InvalidRequestError,
    JangRuntimeError,
    ListenError,
)
from jang_runtime._events import Delta, Event, Failed, Finished, Started
from jang_runtime._messages import (
    delta_message,
    finished_message,
    model_info_message,
    request_from_message,
    started_message,
)
from jang_runtime._requests import GenerationRequest

_log = logging.getLogger("jang_runtime")
# Long prompts fit; what is larger is a mistake or an attack.
_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_GRACE_SECONDS: Final = 5.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RuntimeServicer(runtime_pb2_grpc.RuntimeServiceServicer):
    """jang.runtime.v1.RuntimeService over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Stream the events of one generation."""
        request_id = uuid.uuid4().hex
        try:
            events = _events(self._engine, request_from_message(request), request_id)
            # Closed here, not by the garbage collector: this is what stops the generation.
            async with aclosing(events):
                async for event in events:
                    yield _stream_message(event, request_id)
        except JangRuntimeError as error:
            await _abort(context, error)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Answer with the whole text of one generation."""
        response = pb.GenerateResponse()
        try:
            events = _events(self._engine, request_from_message(request), uuid.uuid4().hex)
            async with aclosing(events):
                async for event in events:
                    _add_to_response(event, response)
        except JangRuntimeError as error:
            await _abort(context, error)
        return response

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Context
    ) -> pb.GetModelInfoResponse:
        """Describe the model."""
        return model_info_message(self._engine.info)


def _stream_message(
    event: Started | Delta | Finished, request_id: str
) -> pb.GenerateStreamResponse:
    match event:
        case Started():
            return pb.GenerateStreamResponse(started=started_message(event, request_id))
        case Delta():
            return pb.GenerateStreamResponse(delta=delta_message(event))
        case Finished():
            return pb.GenerateStreamResponse(finished=finished_message(event))


def _add_to_response(event: Started | Delta | Finished, response: pb.GenerateResponse) -> None:
    match event:
        case Started():
            pass
        case Delta(text, token_ids):
            response.text += text
            response.token_ids.extend(token_ids)
        case Finished():
            response.finished.CopyFrom(finished_message(event))


async def _events(
    engine: Engine, request: GenerationRequest, request_id: str
) -> AsyncGenerator[Started | Delta | Finished]:
    """The events of a request; it is cancelled when the caller stops listening.

    Raises:
        JangRuntimeError: If the request fails.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event] = asyncio.Queue()

    def listen(event: Event) -> None:
        # The loop is closed if the server ended before the engine.
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, event)

    ticket = engine.submit(request, listen)
    _log.info("request %s: queued", request_id)
    try:
        while True:
            event = await queue.get()
            if isinstance(event, Failed):
                _log.info("request %s: failed: %s", request_id, event.error)
                raise event.error
            # Requests from messages ask for nothing that brings other events.
            assert isinstance(event, Started | Delta | Finished)
            yield event
            if isinstance(event, Finished):
                _log.info("request %s: finished: %s", request_id, event.reason)
                return
    finally:
        ticket.cancel()


async def _abort(context: Context, error: JangRuntimeError) -> NoReturn:
    """End a call with the status that fits the error."""
    match error:
        case InvalidRequestError():
            code = grpc.StatusCode.INVALID_ARGUMENT
        case EngineStoppedError():
            code = grpc.StatusCode.UNAVAILABLE
        case _:
            code = grpc.StatusCode.INTERNAL
    await context.abort(code, str(error))
    raise AssertionError("abort does not return")


async def start_server(engine: Engine, listen: str) -> tuple[grpc.aio.Server, str]:
    """Start serving an engine; returns the server and the address it is bound to.

    Args:
        engine: A loaded engine; it stays the caller's.
        listen: "HOST:PORT"; port 0 takes a free one.

    Raises:
        ListenError: If the address is not to be had.
    """
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdigit():
        raise ListenError(f"listen: found {listen!r}, expected HOST:PORT, such as 127.0.0.1:50051")
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # Two servers on one port would answer in turns.
            ("grpc.so_reuseport", 0),
        ]
    )
    runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(RuntimeServicer(engine), server)
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ListenError(
            f"listen: {listen} is not to be had; another program may use it"
        ) from error
    await server.start()
    return server, f"{host}:{bound}"


async def serve(engine: Engine, listen: str, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; running calls get a few seconds to end.

    Args:
        engine: A loaded engine.
        listen: "HOST:PORT".
        announce: Called with the bound address when the server answers.

    Raises:
        ListenError: If the address is not to be had.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server, address = await start_server(engine, listen)
    announce(address)
    await stopped.wait()
    await server.stop(_GRACE_SECONDS)


def is_loopback(listen: str) -> bool:
    """Whether "HOST:PORT" is reachable from this machine only."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
