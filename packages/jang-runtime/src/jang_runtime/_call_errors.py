"""What a client tells about a call that failed."""

from collections.abc import Iterator
from typing import cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from jang_runtime._errors import ServerError


def server_error(target: str, error: grpc.RpcError, request_id: str) -> ServerError:
    """The error of a call, with the details that the server sent along.

    Args:
        target: Who was called.
        error: As grpc or grpc.aio raised it.
        request_id: The name that the client gave the request, or empty.
    """
    metadata = dict(_metadata(error))
    name = metadata.get("x-request-id", request_id)
    info, request, retry = _details(metadata.get("grpc-status-details-bin", b""))
    code = error.code().name
    # Details come from outside, in as many lines as they like.
    message = " ".join(f"{target}: {code}: {error.details()}".split())
    violations = request.field_violations
    return ServerError(
        message,
        code=code,
        reason=info.reason,
        field=violations[0].field if violations else "",
        request_id=name if isinstance(name, str) else "",
        retry_after=None if retry is None else retry.retry_delay.ToTimedelta().total_seconds(),
    )


def _metadata(error: grpc.RpcError) -> Iterator[tuple[str, str | bytes]]:
    """Initial and trailing metadata; None where the server was never reached."""
    if isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        # Both kinds are pairs to whoever iterates; their types agree on nothing.
        yield from cast("list[tuple[str, str | bytes]]", error.initial_metadata() or [])
        yield from cast("list[tuple[str, str | bytes]]", error.trailing_metadata() or [])


def _details(
    packed: str | bytes,
) -> tuple[
    error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo | None
]:
    """The google.rpc details in a status; other kinds, and what is no status, say nothing."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    has_retry = False
    try:
        status = status_pb2.Status.FromString(packed if isinstance(packed, bytes) else b"")
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(request)
            has_retry |= detail.Unpack(retry)
    except DecodeError:
        # A proxy's own: the status of the call itself is reported all the same.
        return error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), None
    return info, request, retry if has_retry else None
