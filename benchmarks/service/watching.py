"""When the tokens of streams that begin together came, and the speeds in that."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Stream:
    """What the caller of one stream saw.

    Attributes:
        seconds: When tokens came, since the streams began.
        tokens: How many there were by then.
        end: When the stream ended.
    """

    seconds: list[float] = field(default_factory=list[float])
    tokens: list[int] = field(default_factory=list[int])
    end: float = 0.0

    def note(self, seconds: float, more: int) -> None:
        """Say that more tokens came."""
        self.seconds.append(seconds)
        self.tokens.append(more + (self.tokens[-1] if self.tokens else 0))

    def by(self, seconds: float) -> int:
        """The tokens that had come by then."""
        there = [
            tokens for at, tokens in zip(self.seconds, self.tokens, strict=True) if at <= seconds
        ]
        return there[-1] if there else 0


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of all streams together.

    Attributes:
        decoding: While all of them were running: from the last one's first token to the first
            one's end.
        whole: Of every token, from the beginning to the last end, the prompts' time included.
    """

    decoding: float
    whole: float


def speeds(streams: Sequence[Stream], max_tokens: int) -> Speeds:
    """What streams came to.

    Raises:
        SystemExit: If one generated another number of tokens than `max_tokens`, or they never
            ran together.
    """
    found = sorted({stream.tokens[-1] for stream in streams})
    if found != [max_tokens]:
        raise SystemExit(f"error: {found} tokens generated, expected {max_tokens} each")
    begin = max(stream.seconds[0] for stream in streams)
    end = min(stream.end for stream in streams)
    if end <= begin:
        raise SystemExit("error: the streams never ran together, expected more tokens of each")
    decoded = sum(stream.by(end) - stream.by(begin) for stream in streams)
    last = max(stream.end for stream in streams)
    return Speeds(decoded / (end - begin), max_tokens * len(streams) / last)
