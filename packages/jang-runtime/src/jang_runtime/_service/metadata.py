"""What a call brings in its metadata."""

import re
from typing import Any, Final

import grpc

from jang_runtime._errors import InvalidMetadataError

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header-field-values; later versions may be
# longer, and this part of them means the same.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<rest>-.*)?"
)


def text_metadata(context: "grpc.aio.ServicerContext[Any, Any]") -> dict[str, list[str]]:
    """The metadata of a call that is text, by key."""
    found: dict[str, list[str]] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found.setdefault(key, []).append(value)
    return found


def request_id(values: list[str], invented: str) -> str:
    """The request's name.

    Raises:
        InvalidMetadataError: If there is one that cannot be.
    """
    if not values:
        return invented
    expected = "one name of 1 to 128 letters, digits and -_.:"
    if len(values) > 1:
        raise InvalidMetadataError("x-request-id", f"{len(values)} values", expected)
    if not _REQUEST_ID.fullmatch(values[0]):
        raise InvalidMetadataError("x-request-id", repr(values[0]), expected)
    return values[0]


def traceparent(values: list[str]) -> str:
    """The trace context; as the standard has it, one that is not well-formed counts as none."""
    if len(values) != 1:
        return ""
    found = _TRACEPARENT.fullmatch(values[0])
    if found is None or (found["rest"] is not None and values[0].startswith("00")):
        return ""
    return values[0]
