"""What is known of one call, and the one interceptor around every RPC."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from jang_runtime._errors import InvalidRequestError
from jang_runtime._service.access import TokenFile
from jang_runtime._service.logs import log_event
from jang_runtime._service.metadata import request_id, text_metadata, traceparent
from jang_runtime._service.metrics import Metrics
from jang_runtime._service.statuses import abort, code_of, is_expected, reason_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Answer = TypeVar("_Answer")

# Probes have no token, come every few seconds and would fill the log.
_UNATTENDED: Final = "/grpc.health.v1.Health/"
# A client's deadline passes before the server's, by the time that the request was on its way.
_DEADLINE_SECONDS: Final = 0.1


@dataclass
class Call:
    """What is known of one call; filled in while it runs.

    Attributes:
        method: Such as "Generate".
        request_id: The request's name.
        peer: The address that it came from.
        caller: The name of its token, without tokens the one in its certificate, or "". Names of
            requests are private to a caller.
        traceparent: As it came, or "".
        arrived: `time.monotonic()`.
        metrics: Where the times of its tokens go.
        prompt_tokens: Tokens in its prompt.
        cached_prompt_tokens: Of these the ones known from earlier requests.
        completion_tokens: Tokens generated or scored.
        finish_reason: Name of a FinishReason, or "".
        queue_seconds: How long it waited.
        prefill_seconds: How long its prompt took.
        decode_seconds: How long its answer took.
        prompt_text: Its prompt, for the log; None unless the server was told to log it.
        first_token: `time.monotonic()` of its first token.
        code: The status it ended with.
        reason: Of its ErrorInfo, or "".
        error: What went wrong, without anything of what the client sent.
    """

    method: str
    request_id: str
    peer: str
    caller: str
    traceparent: str
    arrived: float
    metrics: Metrics = field(repr=False)
    prompt_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str = ""
    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    prompt_text: str | None = None
    first_token: float | None = None
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    error: str = ""
    _last_tokens: float = field(default=0.0, repr=False)

    def note_tokens(self, count: int) -> None:
        """Say that `count` more tokens of the answer are there, 1 or more."""
        now = time.monotonic()
        if self.first_token is None:
            self.first_token = now
            self.metrics.first_token(now - self.arrived)
        else:
            self.metrics.next_tokens(now - self._last_tokens, count)
        self._last_tokens = now


_current: ContextVar[Call] = ContextVar("jang_call")


def current_call() -> Call:
    """The call that the calling coroutine serves.

    Raises:
        LookupError: If it serves none.
    """
    return _current.get()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Around every RPC but health checks: who calls, its name, its status, its log line.

    Args:
        tokens: Who may call; None lets everybody.
        metrics: Where calls are counted.
        log: Where their lines go.
    """

    def __init__(self, tokens: TokenFile | None, metrics: Metrics, log: logging.Logger) -> None:
        self._tokens = tokens
        self._metrics = metrics
        self._log = log

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The handler of a method, with all of this around it."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_UNATTENDED):
            # gRPC answers UNIMPLEMENTED where there is no handler.
            return handler
        return _attended(handler, method.rpartition("/")[2], self._serve)

    async def _serve(
        self, method: str, context: Context, work: Callable[[Call], Awaitable[_Answer]]
    ) -> _Answer:
        """Run one call, whatever its end."""
        metadata = text_metadata(context)
        call = Call(
            method=method,
            request_id=uuid.uuid4().hex,
            # Not at the end: it is empty once the connection is gone.
            peer=context.peer(),
            caller="",
            traceparent=traceparent(metadata.get("traceparent", [])),
            arrived=time.monotonic(),
            metrics=self._metrics,
        )
        _current.set(call)
        with self._accounted(call):
            try:
                if self._tokens is not None:
                    call.caller = self._tokens.caller(metadata.get("authorization", []))
                else:
                    call.caller = _name_in_certificate(context)
                call.request_id = request_id(metadata.get("x-request-id", []), call.request_id)
                return await work(call)
            except asyncio.CancelledError:
                call.code = _code_of_cancellation(context)
                raise
            except grpc.aio.BaseError:
                # The connection is gone, which gRPC says this way if it happens in a write.
                call.code = _code_of_cancellation(context)
                raise
            # The boundary: whatever happens in a call becomes its status and a line in the log.
            except Exception as error:  # noqa: BLE001
                self._note(call, error)
                await abort(context, error, (("x-request-id", call.request_id),))

    def _note(self, call: Call, error: Exception) -> None:
        call.code = code_of(error)
        call.reason = reason_of(error)
        if isinstance(error, InvalidRequestError):
            # Its message says what was found, which may be a part of the prompt.
            call.error = error.field
        elif is_expected(error):
            call.error = str(error)
        else:
            fields = {"request_id": call.request_id, "method": call.method}
            log_event(self._log, "fault", fields, logging.ERROR, error)

    @contextmanager
    def _accounted(self, call: Call) -> Generator[None]:
        """Count a call and write its line when it has ended."""
        self._metrics.call_began()
        try:
            yield
        finally:
            seconds = time.monotonic() - call.arrived
            self._metrics.call_ended(
                call.method, call.code.name, call.reason, seconds, call.queue_seconds
            )
            level = logging.ERROR if call.code is grpc.StatusCode.INTERNAL else logging.INFO
            log_event(self._log, "call", _fields(call, seconds), level)


def _attended(handler: Handler, method: str, serve: Callable[..., Awaitable[Any]]) -> Handler:
    """A handler that runs another one inside `serve`.

    Requests are parsed in there too: what cannot be parsed is the client's mistake, which gRPC
    itself would take for the server's. Responses are written by a coroutine, not yielded: a
    generator would learn only from the garbage collector that the client has gone.
    """

    async def answer(request: Any, context: Context) -> Any:
        async def work(call: Call) -> Any:
            behaviour = handler.unary_unary or handler.stream_unary
            response = await cast(Any, behaviour)(_parsed(handler, request, method), context)
            # Not before: a call that ends with an error and no headers is one that gRPC's
            # own retries may repeat.
            await context.send_initial_metadata((("x-request-id", call.request_id),))
            return response

        return await serve(method, context, work)

    async def stream(request: Any, context: Context) -> None:
        async def work(call: Call) -> None:
            behaviour = handler.unary_stream or handler.stream_stream
            parsed = _parsed(handler, request, method)
            responses = cast(AsyncGenerator[Any], cast(Any, behaviour)(parsed, context))
            is_first = True
            async with aclosing(responses):
                async for response in responses:
                    if is_first:
                        await context.send_initial_metadata((("x-request-id", call.request_id),))
                        is_first = False
                    await context.write(response)

        await serve(method, context, work)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour = stream if handler.response_streaming else answer
    return cast(Any, make)(behaviour, response_serializer=handler.response_serializer)


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


def _name_in_certificate(context: Context) -> str:
    """The first name in a client's certificate; "" without one."""
    names = list(context.peer_identities() or ())
    return names[0].decode(errors="replace") if names else ""


def _code_of_cancellation(context: Context) -> grpc.StatusCode:
    remaining = cast("float | None", context.time_remaining())
    if remaining is not None and remaining < _DEADLINE_SECONDS:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _fields(call: Call, seconds: float) -> dict[str, object]:
    """What the log says of a call; no text of the client but what `prompt_text` holds."""
    first = None if call.first_token is None else call.first_token - call.arrived
    return {
        "request_id": call.request_id,
        "trace_id": call.traceparent[3:35],
        "method": call.method,
        "caller": call.caller,
        "peer": call.peer,
        "code": call.code.name,
        "reason": call.reason,
        "error": call.error,
        "finish_reason": call.finish_reason,
        "prompt_tokens": call.prompt_tokens,
        "cached_prompt_tokens": call.cached_prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "seconds": round(seconds, 6),
        "queue_seconds": _rounded(call.queue_seconds),
        "prefill_seconds": _rounded(call.prefill_seconds),
        "decode_seconds": _rounded(call.decode_seconds),
        "first_token_seconds": _rounded(first),
        "prompt": call.prompt_text,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
