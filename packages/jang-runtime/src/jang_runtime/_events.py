"""What the engine tells about a request: one `Started`, `Delta`s, then `Finished` or `Failed`."""

from dataclasses import dataclass
from enum import StrEnum

from jang_runtime._errors import JangRuntimeError


class FinishReason(StrEnum):
    """Why a generation ended; names as in jang/runtime/v1/runtime.proto."""

    EOS = "EOS"
    STOP_STRING = "STOP_STRING"
    STOP_TOKEN = "STOP_TOKEN"
    MAX_TOKENS = "MAX_TOKENS"
    CONTEXT_FULL = "CONTEXT_FULL"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Started:
    """The request is accepted; its prompt has this many tokens."""

    prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    """New text, whole characters only, and the tokens since the last delta."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, in seconds."""

    queue: float
    prefill: float
    decode: float


@dataclass(frozen=True)
class Finished:
    """The end of a request.

    Attributes:
        reason: Why it ended.
        matched_stop: The stop string or stop token that matched, for those two reasons.
        prompt_tokens: Tokens in the prompt.
        completion_tokens: Tokens generated, the one that ended the text not counted.
        timings: Where the time went.
    """

    reason: FinishReason
    matched_stop: str | int | None
    prompt_tokens: int
    completion_tokens: int
    timings: Timings


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be served."""

    error: JangRuntimeError


Event = Started | Delta | Finished | Failed
