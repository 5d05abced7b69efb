"""Choosing the next token.

mlx-lm's samplers draw from the random state of the thread that imported them, so a seed set in the
engine's thread has no effect; here each request draws from a key of its own.
"""

import secrets
from collections.abc import Callable

import mlx.core as mx

from jang_runtime._requests import Sampling

Sampler = Callable[[mx.array], mx.array]


def make_sampler(sampling: Sampling) -> Sampler:
    """A function from log-probabilities `[batch, vocabulary]` to token ids `[batch]`.

    It is stateful: each call draws from the next key of the request's seed.
    """
    if sampling.temperature == 0:
        return _most_likely
    seed = sampling.seed if sampling.seed is not None else secrets.randbits(64)
    key = mx.random.key(seed)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, draw = mx.random.split(key)
        logits = logprobs * (1.0 / sampling.temperature)
        return mx.random.categorical(restrict(logits, sampling), key=draw)

    return sample


def restrict(logits: mx.array, sampling: Sampling) -> mx.array:
    """Set the logits `[batch, vocabulary]` of tokens that may not be drawn to minus infinity.

    top_k first, then top_p and min_p of what is left, all after the temperature.
    """
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = mx.sort(logits, axis=-1)[..., -sampling.top_k, None]
        logits = mx.where(logits < smallest, -mx.inf, logits)
    if sampling.top_p < 1:
        ascending = mx.sort(logits, axis=-1)
        probabilities = mx.softmax(ascending, axis=-1)
        # A token stays if those more likely than it add up to less than top_p.
        above = mx.cumsum(probabilities, axis=-1, reverse=True, inclusive=False)
        kept = mx.where(above < sampling.top_p, ascending, mx.inf)
        logits = mx.where(logits < mx.min(kept, axis=-1, keepdims=True), -mx.inf, logits)
    if sampling.min_p > 0:
        largest = mx.max(logits, axis=-1, keepdims=True)
        logits = mx.where(logits < largest + mx.log(mx.array(sampling.min_p)), -mx.inf, logits)
    return logits


def _most_likely(logprobs: mx.array) -> mx.array:
    return mx.argmax(logprobs, axis=-1)
