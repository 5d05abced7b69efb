"""Which status and which google.rpc details a call ends with, for each error.

The reasons are part of the API: jang/runtime/v1/runtime.proto names them.
Details follow google.rpc (https://google.aip.dev/193).
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from jang_runtime._errors import (
    AbortedError,
    CacheTooSmallError,
    EngineStoppedError,
    GenerationError,
    InvalidMetadataError,
    InvalidRequestError,
    JangRuntimeError,
    ModelNotFoundError,
    NoChatTemplateError,
    NotServingError,
    QueueFullError,
    RequestIdInUseError,
    SlowReaderError,
    UnauthenticatedError,
)

DOMAIN: Final = "jang.runtime"
# A status travels in the trailing metadata, twice, and clients refuse more than 8 KiB of that.
_LONGEST_MESSAGE: Final = 300


@dataclass(frozen=True)
class _Row:
    code: grpc.StatusCode
    reason: str


_INTERNAL: Final = _Row(grpc.StatusCode.INTERNAL, "INTERNAL_ERROR")

_TABLE: Final[dict[type[JangRuntimeError], _Row]] = {
    InvalidRequestError: _Row(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    InvalidMetadataError: _Row(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_METADATA"),
    ModelNotFoundError: _Row(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    NoChatTemplateError: _Row(grpc.StatusCode.FAILED_PRECONDITION, "NO_CHAT_TEMPLATE"),
    CacheTooSmallError: _Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "CACHE_TOO_SMALL"),
    QueueFullError: _Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    SlowReaderError: _Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_READER"),
    RequestIdInUseError: _Row(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_IN_USE"),
    # Without a time to try again the server is about to end; see `_row`.
    NotServingError: _Row(grpc.StatusCode.UNAVAILABLE, "LOADING"),
    EngineStoppedError: _Row(grpc.StatusCode.UNAVAILABLE, "ENGINE_STOPPED"),
    # Without any token it is TOKEN_MISSING; see `_row`.
    UnauthenticatedError: _Row(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN"),
    AbortedError: _Row(grpc.StatusCode.CANCELLED, "ABORTED"),
    GenerationError: _Row(grpc.StatusCode.INTERNAL, "GENERATION_FAILED"),
}


def is_expected(error: BaseException) -> bool:
    """Whether an error has a status of its own; the others are faults of the server."""
    return _row(error) is not _INTERNAL


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code for an error."""
    return _row(error).code


def reason_of(error: BaseException) -> str:
    """The reason that ErrorInfo names for an error."""
    return _row(error).reason


def status_of(error: BaseException) -> status_pb2.Status:
    """The status for an error, details included; nothing is told of a fault of the server."""
    row = _row(error)
    number: int = row.code.value[0]
    text = str(error) if row is not _INTERNAL else "internal error"
    status = status_pb2.Status(code=number, message=_shortened(text))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN))
    if isinstance(error, InvalidRequestError) and row.code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field,
            description=_shortened(text.removeprefix(f"{error.field}: ")),
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, QueueFullError | NotServingError) and error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=error.retry_after))
        status.details.add().Pack(retry)
    return status


async def abort(
    context: "grpc.aio.ServicerContext[Any, Any]",
    error: BaseException,
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
) -> NoReturn:
    """End a call with the status for an error.

    Args:
        context: The call.
        error: What went wrong.
        trailing_metadata: Sent beside the status.

    Raises:
        grpc.aio.AbortError: Always; gRPC wants it to end the call's coroutine.
    """
    status = rpc_status.to_status(status_of(error))
    await context.abort(
        status.code,
        status.details,
        (*(status.trailing_metadata or ()), *trailing_metadata, _pushback(error)),
    )


def _pushback(error: BaseException) -> tuple[str, str]:
    """RetryInfo for the retries that are built into gRPC's clients, in every language.

    A number below 0 forbids them (https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
    """
    delay = error.retry_after if isinstance(error, QueueFullError | NotServingError) else None
    return "grpc-retry-pushback-ms", "-1" if delay is None else str(round(delay * 1000))


def _row(error: BaseException) -> _Row:
    match error:
        case NotServingError(retry_after=None):
            return _Row(grpc.StatusCode.UNAVAILABLE, "DRAINING")
        case UnauthenticatedError(has_token=False):
            return _Row(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        case _:
            rows = (_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
            return next(rows, _INTERNAL)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_MESSAGE:
        return text
    # Both ends: field and what was found stand first, what was expected last.
    half = _LONGEST_MESSAGE // 2 - 2
    return f"{text[:half]} … {text[-half:]}"
