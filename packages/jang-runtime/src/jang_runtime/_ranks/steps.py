"""What rank 0 tells the others before every step, and its form in bytes.

JSON, and of known classes only: MLX's ring knows no passwords, so nothing that comes through it
may become a program.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, cast

from jang_runtime._caches import KVQuantization
from jang_runtime._errors import EngineStoppedError
from jang_runtime._options import EngineOptions
from jang_runtime._outside import Outside
from jang_runtime._ranks.group import Ranks
from jang_runtime._requests import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    LogitsRequest,
    Logprobs,
    Request,
    Sampling,
    ScoreRequest,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from jang_runtime._scheduler import Scheduler
from jang_runtime._tickets import Ticket


@dataclass(frozen=True)
class Step:
    """What came from outside before a step.

    Attributes:
        requests: New ones.
        cancelled: Which of the open requests are to end: their places in the order in which they
            came, from 0, new ones included.
        expired: Which have no time left; likewise.
        blocked: Which take no large results now; likewise.
        clears: Whether to forget what is kept of earlier requests.
        ends: Whether this is the end.
    """

    requests: tuple[Request, ...]
    cancelled: tuple[int, ...]
    expired: tuple[int, ...]
    blocked: tuple[int, ...]
    clears: bool
    ends: bool


_CLASSES: Final = {
    cls.__name__: cls
    for cls in (
        ChatMessage,
        ChatPrompt,
        EngineOptions,
        GenerationRequest,
        KVQuantization,
        LogitsRequest,
        Logprobs,
        Sampling,
        ScoreRequest,
        Step,
        Stopping,
        TextPrompt,
        TokenPrompt,
    )
}
# Keys that no field has.
_CLASS: Final = "class"
_PAIRS: Final = "pairs"


def encode(value: Step | EngineOptions) -> bytes:
    """The bytes of a value."""
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def decode(content: bytes) -> Any:
    """The value of bytes that `encode` made.

    Raises:
        EngineStoppedError: If they are something else.
    """
    try:
        return _value(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise EngineStoppedError(
            "the engine has stopped: rank 0 sent what no rank sends; is another program at its "
            "ports, or another version of jang-runtime?"
        ) from error


def tell(
    ranks: Ranks,
    scheduler: Scheduler,
    new: Sequence[Ticket],
    outside: Outside,
    *,
    clears: bool,
    ends: bool,
) -> None:
    """Tell the other ranks what rank 0 is about to do.

    Args:
        ranks: They.
        scheduler: Rank 0's; it has the new requests.
        new: Those.
        outside: What the step goes by.
        clears: As in `Step`.
        ends: As in `Step`.

    Raises:
        EngineStoppedError: If they cannot go on together.
    """

    def message() -> bytes:
        places = {ticket: place for place, ticket in enumerate(scheduler.open_tickets())}
        return encode(
            Step(
                requests=tuple(each.request for each in new),
                cancelled=tuple(places[ticket] for ticket in outside.cancelled),
                expired=tuple(places[ticket] for ticket in outside.expired),
                blocked=tuple(places[ticket] for ticket in outside.blocked),
                clears=clears,
                ends=ends,
            )
        )

    ranks.tell(scheduler.decided, message)


def _plain(value: object) -> object:
    if is_dataclass(value):
        content = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        return {_CLASS: type(value).__name__} | content
    if isinstance(value, tuple):
        return [_plain(each) for each in cast(tuple[object, ...], value)]
    if isinstance(value, Mapping):
        # JSON's own keys are texts.
        return {_PAIRS: list(cast(Mapping[object, object], value).items())}
    return value


def _value(plain: object) -> Any:
    if isinstance(plain, list):
        return tuple(_value(each) for each in cast(list[object], plain))
    if not isinstance(plain, dict):
        return plain
    content = cast(dict[str, object], plain)
    if _PAIRS in content:
        return dict(cast(list[tuple[int, float]], content[_PAIRS]))
    named = {key: _value(each) for key, each in content.items() if key != _CLASS}
    return _CLASSES[str(content[_CLASS])](**named)
