"""What is known of one call, and the one interceptor around every RPC."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeVar, cast

import grpc

from jang_runtime._errors import InvalidRequestError
from jang_runtime._service.access import TokenFile
from jang_runtime._service.handlers import Context, Handler, attended
from jang_runtime._service.logs import log_event
from jang_runtime._service.metadata import request_id, text_metadata, traceparent
from jang_runtime._service.metrics import Metrics
from jang_runtime._service.statuses import abort, code_of, is_expected, reason_of

_Answer = TypeVar("_Answer")

# Probes have no token, come every few seconds and would fill the log.
_UNATTENDED: Final = "/grpc.health.v1.Health/"
# A client's deadline passes before the server's, by the time that the request was on its way.
_DEADLINE_SECONDS: Final = 0.1
# For a status to be on its way, where the results before it are not read.
_LAST_WORD_SECONDS: Final = 1.0


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
        # Counted here for calls that never come to the end, which says it for all others.
        self.completion_tokens = (self.completion_tokens or 0) + count
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
        stall_seconds: For a client to take the next response of a stream; after that its call is
            ended, so that what it holds is free for others.
    """

    def __init__(
        self,
        tokens: TokenFile | None,
        metrics: Metrics,
        log: logging.Logger,
        stall_seconds: float = 300.0,
    ) -> None:
        self._tokens = tokens
        self._metrics = metrics
        self._log = log
        self._stall_seconds = stall_seconds

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
        name = method.rpartition("/")[2]
        return attended(handler, name, self._serve, self._stall_seconds)

    async def _serve(
        self, method: str, context: Context, work: Callable[[str], Awaitable[_Answer]]
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
                return await work(call.request_id)
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
                await _abort(context, error, call)

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


async def _abort(context: Context, error: Exception, call: Call) -> NoReturn:
    """End a call with the status for an error."""
    try:
        async with asyncio.timeout(_LAST_WORD_SECONDS):
            await abort(context, error, (("x-request-id", call.request_id),))
    except TimeoutError:
        # The client reads nothing; gRPC keeps the status for it, and this coroutine is done.
        raise asyncio.CancelledError from None


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
