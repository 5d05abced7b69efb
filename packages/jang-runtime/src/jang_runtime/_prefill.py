"""Working through a text, a bounded piece at a time."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import mlx.core as mx

from jang_runtime._caches import Caches, ForwardPass, evaluate

# Gets logits `[n, vocabulary]`, lazily, and the position of the first; gives what of them is to be
# computed.
UseLogits: TypeAlias = Callable[[int, mx.array], Sequence[mx.array]]


class Prefill:
    """Puts a text into caches.

    Args:
        forward: The model.
        tokens: The text.
        caches: Hold its first `done` tokens.
        done: As said.
        wanted: Logits before this position are not computed.
    """

    def __init__(
        self,
        forward: ForwardPass,
        tokens: Sequence[int],
        caches: Caches,
        done: int,
        wanted: int,
    ) -> None:
        self._forward = forward
        self._tokens = tokens
        self.caches = caches
        self._done = done
        self._wanted = wanted

    @property
    def remaining(self) -> int:
        """How many tokens are not in the caches yet."""
        return len(self._tokens) - self._done

    def advance(self, most: int, use: UseLogits) -> int:
        """Work through at most `most` tokens, at least one if any is left; how many it were.

        `use` gets the logits from the wanted position on.
        """
        start = self._done
        if start >= self._wanted:
            most = min(most, self._forward.most_logits)
        end = min(start + most, len(self._tokens))
        if start < self._wanted < end:
            end = self._wanted
        if start == end:
            return 0
        logits = self._forward(mx.array([list(self._tokens[start:end])]), self.caches)[0]
        evaluate(self.caches, use(start, logits) if start >= self._wanted else ())
        self._done = end
        # Intermediate results of long pieces are large, and no later piece may fit into them.
        mx.clear_cache()
        return end - start
