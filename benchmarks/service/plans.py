"""What a load test does: each request with its name, its reader, its end, and what may come of it.

An outcome is a string: the status, then its reason, or for generations the reason of their end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Reader: TypeAlias = Literal["eager", "slow", "stalled"]

QUEUE_FULL: Final = "RESOURCE_EXHAUSTED QUEUE_FULL"
SLOW_READER: Final = "RESOURCE_EXHAUSTED SLOW_READER"
CACHE_TOO_SMALL: Final = "RESOURCE_EXHAUSTED CACHE_TOO_SMALL"
# gRPC's own, for messages above the limit.
TOO_LARGE: Final = "RESOURCE_EXHAUSTED"
IN_USE: Final = "ALREADY_EXISTS REQUEST_ID_IN_USE"
INVALID_FIELD: Final = "INVALID_ARGUMENT INVALID_FIELD"
INVALID_METADATA: Final = "INVALID_ARGUMENT INVALID_METADATA"
CANCELLED: Final = "CANCELLED"
ABORTED: Final = "CANCELLED ABORTED"
DEADLINE: Final = "DEADLINE_EXCEEDED"
UNIMPLEMENTED: Final = "UNIMPLEMENTED"
# No end within the time that the test gives every request: never allowed.
HUNG: Final = "HUNG"


@dataclass(frozen=True)
class Ending:
    """How a request is ended before its time.

    Attributes:
        by: "client" cancels the call; "abort" sends Abort over another connection.
        after_events: When so many responses have come, for a client 0 too; None to go by time.
        after_seconds: So long after the call was made.
    """

    by: Literal["client", "abort"]
    after_events: int | None
    after_seconds: float


@dataclass(frozen=True)
class Plan:
    """One request.

    Attributes:
        name: Its `x-request-id`, in the server's log too.
        group: What is special about it, for the table.
        method: Such as "Generate".
        message: The protobuf message, or bytes to send in its place.
        metadata: Of the call.
        allowed: The outcomes that it may have.
        deadline: Seconds that the client gives it; None for no limit.
        reader: How fast its responses are read.
        ending: How it is ended before its time; None lets it run.
        twin: Number of the request, asked alone before, whose answer it has to get; None for none.
        reaches_service: Whether it gets as far as the service, so that the log has a line for it.
    """

    name: str
    group: str
    method: str
    message: Any
    metadata: tuple[tuple[str, str], ...]
    allowed: frozenset[str]
    deadline: float | None = None
    reader: Reader = "eager"
    ending: Ending | None = None
    twin: int | None = None
    reaches_service: bool = True


@dataclass(frozen=True)
class Served:
    """What the requests are drawn for.

    Attributes:
        vocabulary_size: Token ids are below it.
        context_length: Tokens of prompt and answer.
        max_prompt_tokens: The server's limit.
        max_message_bytes: The server's limit.
    """

    vocabulary_size: int
    context_length: int
    max_prompt_tokens: int
    max_message_bytes: int


def outcomes_of_generation(stopping: Any) -> frozenset[str]:
    """How a generation with this `Stopping` may end by itself."""
    reasons = ["MAX_TOKENS"]
    reasons += [] if stopping.ignore_eos else ["EOS"]
    reasons += ["STOP_STRING"] if stopping.stop_strings else []
    reasons += ["STOP_TOKEN"] if stopping.stop_token_ids else []
    return frozenset(f"OK {reason}" for reason in reasons)


# What each way to end early may lead to, by method; what the request has without it stays possible.
OUTCOMES_OF_ABORT: Final[Mapping[str, str]] = {
    "Generate": "OK CANCELLED",
    "GenerateStream": "OK CANCELLED",
    "Score": ABORTED,
    "Logits": ABORTED,
}
