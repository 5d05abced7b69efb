"""Log-probabilities of tokens: the model's own, before bias, penalties and temperature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import mlx.core as mx

from jang_runtime._events import TokenLogprobs


@dataclass(frozen=True)
class MeasuredTokens:
    """What is read of the logits of n positions, lazily.

    Attributes:
        logprobs: `[n]` float32, of the tokens that came.
        ranks: `[n]`, one more than the number of tokens that are likelier than those.
        top_ids: `[n, top]`, the most likely tokens, in no order.
        top_logprobs: `[n, top]` float32.
    """

    logprobs: mx.array
    ranks: mx.array
    top_ids: mx.array
    top_logprobs: mx.array

    def arrays(self) -> list[mx.array]:
        """All of them, to evaluate."""
        return [self.logprobs, self.ranks, self.top_ids, self.top_logprobs]


def measure(logits: mx.array, tokens: mx.array, top: int) -> MeasuredTokens:
    """What is known of `tokens` `[n]` and the `top` most likely, from logits `[n, vocabulary]`."""
    logits = logits.astype(mx.float32)
    total = log_of_sum(logits)
    tokens = tokens.astype(mx.uint32)
    own = mx.take_along_axis(logits, tokens[:, None], axis=-1)
    count = min(top, logits.shape[-1])
    ids = (
        mx.argpartition(-logits, count - 1, axis=-1)[:, :count]
        if count
        else mx.zeros((len(logits), 0), mx.uint32)
    )
    return MeasuredTokens(
        logprobs=(own - total)[:, 0],
        ranks=mx.sum(logits > own, axis=-1) + 1,
        top_ids=ids,
        top_logprobs=mx.take_along_axis(logits, ids, axis=-1) - total,
    )


def log_of_sum(logits: mx.array) -> mx.array:
    """Logarithm of the sum of powers of e along the last axis of float32, which becomes 1 long.

    In two steps: MLX's CPU adds a row up in one float32 number, and a whole vocabulary in one go
    comes out too low by 1e-4.
    """
    parts = logits.shape[-1] // _ADDED_TOGETHER
    whole = parts * _ADDED_TOGETHER
    if parts < 2:
        return mx.logsumexp(logits, axis=-1, keepdims=True)
    sums = mx.logsumexp(mx.unflatten(logits[..., :whole], -1, (parts, _ADDED_TOGETHER)), axis=-1)
    return mx.logsumexp(mx.concatenate([sums, logits[..., whole:]], -1), axis=-1, keepdims=True)


_ADDED_TOGETHER: Final = 256


def score(logits: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
    """Log-probabilities of `tokens` `[n]`, and whether each is the most likely, lazily.

    `logits` are `[n, vocabulary]`.
    """
    return measure(logits, tokens, 0).logprobs, mx.argmax(logits, axis=-1) == tokens


def read(measured: MeasuredTokens, tokens: Sequence[int]) -> list[TokenLogprobs]:
    """The numbers; the most likely tokens come first, of equal ones the lower id."""
    own = cast(list[float], measured.logprobs.tolist())
    ranks = cast(list[int], measured.ranks.tolist())
    ids = cast(list[list[int]], measured.top_ids.tolist())
    values = cast(list[list[float]], measured.top_logprobs.tolist())
    return [
        TokenLogprobs(
            token_id=token,
            logprob=logprob,
            rank=rank,
            top=tuple(sorted(zip(row_ids, row_values, strict=True), key=_by_likelihood)),
        )
        for token, logprob, rank, row_ids, row_values in zip(
            tokens, own, ranks, ids, values, strict=True
        )
    ]


def _by_likelihood(entry: tuple[int, float]) -> tuple[float, int]:
    token, logprob = entry
    return -logprob, token
