"""How much memory the keys and values of a request take, and whether there is room for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx

from jang_runtime._caches import Caches
from jang_runtime._errors import CacheTooSmallError
from jang_runtime._ranks.group import ONE_RANK, Ranks
from jang_runtime._requests import (
    DEFAULT_MAX_TOKENS,
    GenerationRequest,
    LogitsRequest,
    Request,
    ScoreRequest,
    token_ids,
)
from jang_runtime._scoring import MOST_ROWS
from jang_runtime._tickets import Ticket

# mlx-lm's caches grow by so many tokens at a time.
_STEP: Final = 256


@dataclass(frozen=True)
class CacheNeed:
    """What a request will hold at most.

    Attributes:
        rows: Texts side by side.
        tokens: Of the longest of them.
        is_batched: Whether it shares a batch with others, where all rows are as long as the
            longest.
    """

    rows: int
    tokens: int
    is_batched: bool


def cache_need(request: Request, context_length: int) -> CacheNeed:
    """The need of a request whose prompts are tokens."""
    match request:
        case GenerationRequest():
            most = request.stopping.max_tokens or DEFAULT_MAX_TOKENS
            tokens = min(len(token_ids(request.prompt)) + most, context_length)
            return CacheNeed(1, tokens, is_batched=True)
        case ScoreRequest():
            # The context's own row stays while copies of it go on.
            rows = 1 + min(MOST_ROWS, len(request.continuations))
            longest = max(len(each) for each in request.continuations)
            return CacheNeed(rows, len(token_ids(request.context)) + longest, is_batched=False)
        case LogitsRequest():
            return CacheNeed(1, len(token_ids(request.prompt)), is_batched=False)


@dataclass(frozen=True)
class CacheCost:
    """Bytes of one row's caches.

    Attributes:
        constant: Of states that do not grow with the text.
        growing: Bytes for each token, and the most tokens that are kept; of each layer.
    """

    constant: int
    growing: tuple[tuple[int, int | None], ...]

    def of(self, tokens: int) -> int:
        """Bytes for a text of that many tokens."""
        allocated = -(-tokens // _STEP) * _STEP
        return self.constant + sum(
            each * (allocated if most is None else min(allocated, most))
            for each, most in self.growing
        )


def cache_cost(caches: Caches) -> CacheCost:
    """The cost of a row, read off caches of some text, at least one token of it."""
    constant = 0
    growing: list[tuple[int, int | None]] = []
    for layer in _layers(caches):
        keys: Any = getattr(layer, "keys", None)
        if keys is None:
            constant += layer.nbytes
            continue
        # Quantized ones are tuples of codes, scales and biases.
        array = keys if isinstance(keys, mx.array) else keys[0]
        most = getattr(layer, "max_size", None) or getattr(layer, "chunk_size", None)
        growing.append((layer.nbytes // array.shape[2], most))
    return CacheCost(constant, tuple(growing))


def _layers(caches: Caches) -> Iterator[Any]:
    for layer in caches:
        # mlx-lm's CacheList holds several for one layer.
        inner = getattr(layer, "caches", None)
        if inner is None:
            yield layer
        else:
            yield from _layers(list(inner))


class CacheRoom:
    """Promises of cache memory to requests, within a limit.

    Until `learn` has seen caches nothing is known to cost anything.

    Args:
        limit: Bytes, of each process.
        ranks: The processes; what does not fit into one of them fits nowhere.
    """

    def __init__(self, limit: int, ranks: Ranks = ONE_RANK) -> None:
        self.limit = limit
        self._ranks = ranks
        self._cost: CacheCost | None = None
        self._taken: dict[Ticket, CacheNeed] = {}

    @property
    def reserved(self) -> int:
        """Bytes promised."""
        return self._bytes([*self._taken.values()])

    @property
    def is_learned(self) -> bool:
        """Whether the cost of a token is known."""
        return self._cost is not None

    def learn(self, caches: Caches) -> None:
        """Read the cost of a token off caches of some text."""
        self._cost = cache_cost(caches)

    def take(self, ticket: Ticket, need: CacheNeed) -> bool:
        """Promise memory to a request; False if it has to wait for others.

        Raises:
            CacheTooSmallError: If waiting would not help.
        """
        alone, together = self._ranks.largest(
            [self._bytes([need]), self._bytes([*self._taken.values(), need])]
        )
        if alone > self.limit:
            raise CacheTooSmallError(
                f"cache: found {need.tokens} tokens of prompt and answer in {need.rows} rows, "
                f"{alone} bytes of keys and values, expected at most {self.limit}"
            )
        if together > self.limit:
            return False
        self._taken[ticket] = need
        return True

    def give_back(self, ticket: Ticket) -> None:
        """A request has ended; no effect if it was promised nothing."""
        self._taken.pop(ticket, None)

    def _bytes(self, needs: list[CacheNeed]) -> int:
        if self._cost is None:
            return 0
        batched = [need.tokens for need in needs if need.is_batched]
        total = len(batched) * self._cost.of(max(batched)) if batched else 0
        return total + sum(
            need.rows * self._cost.of(need.tokens) for need in needs if not need.is_batched
        )
