"""Log-likelihoods of continuations, and logits of positions, in the thread that owns the model."""

import time
from collections.abc import Sequence
from typing import Final, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from jang_runtime._caches import Caches, ForwardPass, copied, evaluate, new_caches, repeated
from jang_runtime._errors import InvalidRequestError
from jang_runtime._events import Finished, FinishReason, Logits, Score, Started, Timings
from jang_runtime._logprobs import log_of_sum, score
from jang_runtime._model import LoadedModel
from jang_runtime._prefill import Prefill
from jang_runtime._prefix_cache import PrefixCache
from jang_runtime._requests import LogitsRequest, ScoreRequest, check_last_position, token_ids
from jang_runtime._tickets import Ticket

# Continuations of one context that are worked through together; each has the context's caches.
MOST_ROWS: Final = 16


class Scoring:
    """A request for log-likelihoods under way: the context once, then continuations in groups.

    Args:
        loaded: The model; this is its thread.
        forward: The model's forward pass.
        known: Caches of earlier texts.
        ticket: Where the events go.
        request: The ticket's, in tokens.

    Raises:
        InvalidRequestError: If the request asks for what cannot be done.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        forward: ForwardPass,
        known: PrefixCache,
        ticket: Ticket,
        request: ScoreRequest,
    ) -> None:
        self.ticket = ticket
        self._begun = time.monotonic()
        self._forward = forward
        self._known = known
        self._context, self._continuations = token_ids(request.context), _ids(request)
        for index, ids in enumerate(self._continuations):
            # The last token is not fed to the model.
            if len(self._context) + len(ids) - 1 > loaded.info.context_length:
                raise InvalidRequestError(
                    f"continuations[{index}]",
                    f"one that ends after {len(self._context) + len(ids)} tokens",
                    f"at most the context's {loaded.info.context_length} and one",
                )
        last = len(self._context) - 1
        caches, self.cached_prompt_tokens = known.take(self._context, last) or (
            new_caches(loaded.model),
            0,
        )
        self._prefill = Prefill(forward, self._context, caches, self.cached_prompt_tokens, last)
        self._group: _Group | None = None
        # Log-probability of each continuation's first token, and whether it is the most likely.
        self._first: list[tuple[float, bool]] = []
        self._scored = 0
        ticket.listener(Started(prompt_tokens=len(self._context)))

    @property
    def prompt_tokens(self) -> int:
        """Tokens in the context."""
        return len(self._context)

    @property
    def is_done(self) -> bool:
        """Whether every continuation is scored."""
        return self._scored == len(self._continuations)

    def advance(self, most: int) -> int:
        """Work through at most about `most` tokens; how many it were."""
        if self._prefill.remaining:
            count = self._prefill.advance(most, self._use_context)
            if not self._prefill.remaining:
                self._known.put(self._context, self._prefill.caches)
            return count
        if self._group is None:
            members = self._continuations[self._scored : self._scored + MOST_ROWS]
            first = self._first[self._scored : self._scored + MOST_ROWS]
            self._group = _Group(self._forward, self._prefill.caches, members, first)
        count = self._group.advance(most)
        if self._group.is_done:
            for logprobs, is_greedy in self._group.results():
                ids = self._continuations[self._scored]
                self.ticket.listener(Score(self._scored, ids, logprobs, is_greedy))
                self._scored += 1
            self._group = None
        return count

    def finish(self, reason: FinishReason) -> None:
        """Send the last event."""
        scored = self._continuations[: self._scored]
        self.ticket.listener(
            _finished(
                reason,
                self.ticket,
                self._begun,
                len(self._context),
                sum(len(ids) for ids in scored),
                self.cached_prompt_tokens,
            )
        )

    def _use_context(self, position: int, logits: mx.array) -> Sequence[mx.array]:
        """Read the first token of every continuation off the logits after the context."""
        tokens = mx.array([ids[0] for ids in self._continuations], mx.uint32)
        last = logits[-1].astype(mx.float32)
        self._first = _read(last[tokens] - log_of_sum(last), mx.argmax(last) == tokens)
        return ()


class _Group:
    """Continuations of one context, one row each, padded at their ends.

    What stands after a row's end changes nothing before it, and the caches are thrown away.
    """

    def __init__(
        self,
        forward: ForwardPass,
        context: Caches,
        members: Sequence[tuple[int, ...]],
        first: Sequence[tuple[float, bool]],
    ) -> None:
        self._forward = forward
        self._members = members
        self._read = [[entry] for entry in first]
        self._length = max(len(ids) for ids in members)
        self._tokens = np.zeros((len(members), self._length), np.uint32)
        for row, ids in enumerate(members):
            self._tokens[row, : len(ids)] = ids
        self._done = 1
        self._caches: Caches = []
        if not self.is_done:
            self._caches = repeated(context, len(members)) if len(members) > 1 else copied(context)

    @property
    def is_done(self) -> bool:
        """Whether every row has come to its end."""
        return self._done == self._length

    def advance(self, most: int) -> int:
        """Feed some tokens of every row; how many they were together."""
        if self.is_done:
            return 0
        rows = len(self._members)
        columns = max(1, min(most, self._forward.most_logits) // rows)
        start, end = self._done, min(self._done + columns, self._length)
        fed = mx.array(self._tokens[:, start - 1 : end - 1])
        logits = self._forward(fed, self._caches).flatten(0, 1)
        logprobs, greedy = score(logits, mx.array(self._tokens[:, start:end].reshape(-1)))
        evaluate(self._caches, logprobs, greedy)
        results = _read(logprobs, greedy)
        for row in range(rows):
            self._read[row] += results[row * (end - start) : (row + 1) * (end - start)]
        self._done = end
        mx.clear_cache()
        return rows * (end - start)

    def results(self) -> list[tuple[tuple[float, ...], bool]]:
        """Of each row the log-probabilities of its tokens, and whether all were most likely."""
        rows = [read[: len(ids)] for read, ids in zip(self._read, self._members, strict=True)]
        return [
            (tuple(logprob for logprob, _ in row), all(greedy for _, greedy in row)) for row in rows
        ]


def _ids(request: ScoreRequest) -> list[tuple[int, ...]]:
    """The continuations, which are tokens by now."""
    return [each for each in request.continuations if not isinstance(each, str)]


def _read(logprobs: mx.array, greedy: mx.array) -> list[tuple[float, bool]]:
    return list(
        zip(cast(list[float], logprobs.tolist()), cast(list[bool], greedy.tolist()), strict=True)
    )


class Positions:
    """A request for logits under way; arguments as for `Scoring`, prefixes are not looked up."""

    cached_prompt_tokens = 0

    def __init__(
        self, loaded: LoadedModel, forward: ForwardPass, ticket: Ticket, request: LogitsRequest
    ) -> None:
        self.ticket = ticket
        self._begun = time.monotonic()
        prompt = token_ids(request.prompt)
        if len(prompt) > loaded.info.context_length:
            expected = f"at most the context's {loaded.info.context_length}"
            raise InvalidRequestError("prompt", f"{len(prompt)} tokens", expected)
        positions = request.positions or tuple(range(len(prompt)))
        check_last_position(positions[-1], len(prompt))
        self._positions = np.array(positions)
        self.prompt_tokens = len(prompt)
        self._prefill = Prefill(
            forward,
            prompt[: positions[-1] + 1],
            new_caches(loaded.model),
            done=0,
            wanted=positions[0],
        )
        ticket.listener(Started(prompt_tokens=len(prompt)))

    @property
    def is_done(self) -> bool:
        """Whether all logits are delivered."""
        return self._prefill.remaining == 0

    def advance(self, most: int) -> int:
        """Work through at most `most` tokens; how many it were."""
        return self._prefill.advance(most, self._deliver)

    def finish(self, reason: FinishReason) -> None:
        """Send the last event."""
        self.ticket.listener(_finished(reason, self.ticket, self._begun, self.prompt_tokens, 0, 0))

    def _deliver(self, position: int, logits: mx.array) -> Sequence[mx.array]:
        here = self._positions[
            (self._positions >= position) & (self._positions < position + len(logits))
        ]
        if len(here):
            chosen = logits[mx.array(here - position)].astype(mx.float32)
            # A copy: MLX arrays stay in this thread.
            values = np.array(cast(npt.ArrayLike, chosen), np.float32)
            self.ticket.listener(Logits(tuple(here.tolist()), values))
        return ()


def _finished(
    reason: FinishReason, ticket: Ticket, begun: float, prompt: int, scored: int, cached: int
) -> Finished:
    return Finished(
        reason=reason,
        matched_stop=None,
        prompt_tokens=prompt,
        completion_tokens=scored,
        timings=Timings(queue=begun - ticket.arrived, prefill=time.monotonic() - begun, decode=0.0),
        cached_prompt_tokens=cached,
    )
