"""Caches of texts already worked through, for prompts that begin with them.

mlx-lm's LRUPromptCache is not used: in 0.32 a hit does not renew an entry, so it drops what came
first and not what was used least; an entry that equals the prompt is handed out with no token left
to go on from, even where nothing can be trimmed; and its search walks every stored continuation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from jang_runtime._caches import Caches, can_trim, compact, copied, size_in_bytes, trim
from jang_runtime._ranks.group import ONE_RANK, Ranks

# Each look-up compares the prompt with all of them, some microseconds each.
_MOST_ENTRIES: Final = 256

_Tokens: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Entry:
    tokens: _Tokens
    caches: Caches
    size: int
    can_trim: bool

    def usable(self, tokens: _Tokens) -> int:
        """How many of the first `tokens` this entry's caches can stand for."""
        common = common_length(self.tokens, tokens)
        return common if common == len(self.tokens) or self.can_trim else 0


class PrefixCache:
    """Keeps the most recently used caches.

    Args:
        limit: In bytes; 0 keeps none.
        ranks: The processes that have to keep the same, though their layers' caches may differ.
    """

    def __init__(self, limit: int, ranks: Ranks = ONE_RANK) -> None:
        self._limit = limit
        self._ranks = ranks
        # The least recently used is first.
        self._entries: list[_Entry] = []
        self.lookups = 0
        self.hits = 0

    @property
    def is_on(self) -> bool:
        """Whether it can keep anything."""
        return self._limit > 0

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(entry.size for entry in self._entries)

    def take(self, tokens: Sequence[int], most: int) -> tuple[Caches, int] | None:
        """Caches for the longest known beginning of `tokens`, and its length.

        Args:
            tokens: The prompt.
            most: The result's length is at most this.
        """
        if not self.is_on:
            return None
        self.lookups += 1
        beginning = np.array(tokens[:most], np.int32)
        best = max(self._entries, key=lambda entry: entry.usable(beginning), default=None)
        length = best.usable(beginning) if best is not None else 0
        if best is None or length == 0:
            return None
        self.hits += 1
        self._entries = [entry for entry in self._entries if entry is not best] + [best]
        caches = copied(best.caches)
        trim(caches, len(best.tokens) - length)
        return caches, length

    def put(self, tokens: Sequence[int], caches: Caches) -> None:
        """Keep caches of exactly these tokens; whoever gives them may go on with them."""
        text = np.array(tokens, np.int32)
        if not self.is_on or not tokens:
            return
        if any(entry.usable(text) == len(text) for entry in self._entries):
            return
        kept = compact(caches)
        cannot_trim, size = self._ranks.largest([not can_trim(kept), size_in_bytes(kept)])
        if size > self._limit:
            return
        new = _Entry(text, kept, size, not cannot_trim)
        # What the new one can stand for is not kept twice.
        self._entries = [
            entry for entry in self._entries if new.usable(entry.tokens) < len(entry.tokens)
        ]
        self._entries.append(new)
        while self.size > self._limit or len(self._entries) > _MOST_ENTRIES:
            del self._entries[0]

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()


def common_length(first: _Tokens, second: _Tokens) -> int:
    """How many tokens two texts begin with in common."""
    shorter = min(len(first), len(second))
    different = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(different[0]) if len(different) else shorter
