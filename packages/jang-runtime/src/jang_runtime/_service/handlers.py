"""Handlers of RPCs that run others inside: parsing, headers and writing in our own hands."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from jang_runtime._errors import InvalidRequestError, SlowReaderError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Answer = TypeVar("_Answer")


class Serve(Protocol):
    """What runs around the work of a call; the work wants the request's name."""

    async def __call__(
        self, method: str, context: Context, work: Callable[[str], Awaitable[_Answer]], /
    ) -> _Answer:
        """Do the work."""
        ...


def attended(handler: Handler, method: str, serve: Serve, stall_seconds: float) -> Handler:
    """A handler that runs another one inside `serve`.

    Requests are parsed in there too: what cannot be parsed is the client's mistake, which gRPC
    itself would take for the server's. Responses are written by a coroutine, not yielded: a
    generator would learn only from the garbage collector that the client has gone.
    """

    async def answer(request: Any, context: Context) -> Any:
        async def work(request_id: str) -> Any:
            behaviour = handler.unary_unary or handler.stream_unary
            response = await cast(Any, behaviour)(_parsed(handler, request, method), context)
            # Not before: a call that ends with an error and no headers is one that gRPC's
            # own retries may repeat.
            await context.send_initial_metadata((("x-request-id", request_id),))
            return response

        return await serve(method, context, work)

    async def stream(request: Any, context: Context) -> None:
        async def work(request_id: str) -> None:
            behaviour = handler.unary_stream or handler.stream_stream
            parsed = _parsed(handler, request, method)
            responses = cast(AsyncGenerator[Any], cast(Any, behaviour)(parsed, context))
            is_first = True
            async with aclosing(responses):
                async for response in responses:
                    if is_first:
                        await context.send_initial_metadata((("x-request-id", request_id),))
                        is_first = False
                    await _write(context, response, stall_seconds)

        await serve(method, context, work)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour = stream if handler.response_streaming else answer
    return cast(Any, make)(behaviour, response_serializer=handler.response_serializer)


async def _write(context: Context, response: Any, stall_seconds: float) -> None:
    """Send a response; it returns when there is room for it on the client's side.

    Raises:
        SlowReaderError: If there was none for so long.
    """
    try:
        async with asyncio.timeout(stall_seconds):
            await context.write(response)
    except TimeoutError as error:
        raise SlowReaderError(
            f"results: found nobody who read them for {stall_seconds:g} s"
        ) from error


def _parsed(handler: Handler, request: Any, method: str) -> Any:
    """The message, or an iterator of messages, in what came from the network.

    Raises:
        InvalidRequestError: If it is no message of the method; from the iterator for streams.
    """
    if handler.request_streaming:
        return _each_parsed(handler, request, method)
    return _message(handler, request, method)


async def _each_parsed(
    handler: Handler, requests: AsyncIterator[bytes], method: str
) -> AsyncGenerator[Any]:
    async for request in requests:
        yield _message(handler, request, method)


def _message(handler: Handler, request: bytes, method: str) -> Any:
    parse = cast(Callable[[bytes], Any], handler.request_deserializer)
    try:
        return parse(request)
    except DecodeError as error:
        raise InvalidRequestError(
            "request", "bytes that cannot be parsed", f"the message that {method} takes"
        ) from error
