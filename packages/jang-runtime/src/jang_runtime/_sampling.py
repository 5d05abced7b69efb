"""Choosing the next token of one request.

mlx-lm's samplers draw from the random state of the thread that imported them and from one stream
for a whole batch. Here each draw has a key of its own, made from the request's seed and the number
of the token, so that a request's draws depend on nothing but its own logits.
"""

import hashlib
import secrets
import struct
from dataclasses import dataclass, replace

import mlx.core as mx

from jang_runtime._penalties import add_bias, looks_back, penalize
from jang_runtime._requests import Sampling


@dataclass(frozen=True)
class Chooser:
    """Chooses the tokens of one request.

    Attributes:
        sampling: How.
        seed: Of its random numbers.
        is_plain: Whether the most likely token is taken and nothing else looked at.
        looks_back: Whether it needs the text so far.
    """

    sampling: Sampling
    seed: int
    is_plain: bool
    looks_back: bool

    def choose(self, logits: mx.array, text: mx.array | None, index: int) -> mx.array:
        """The next token, `[1]`, lazily: bias, penalties, temperature, restrictions, draw.

        Args:
            logits: `[1, vocabulary]`.
            text: Ids of prompt and output; needed if this chooser looks back.
            index: How many tokens were chosen before.
        """
        sampling = self.sampling
        logits = logits.astype(mx.float32)
        if sampling.logit_bias:
            logits = add_bias(logits, sampling.logit_bias)
        if text is not None and self.looks_back:
            logits = penalize(logits, text, index, sampling)
        if sampling.temperature == 0:
            return mx.argmax(logits, axis=-1)
        ids, logits = most_likely(logits * (1.0 / sampling.temperature), sampling.top_k)
        drawn = draw(restrict(logits, sampling), draw_key(self.seed, index))
        return drawn if ids is None else mx.take_along_axis(ids, drawn[:, None], axis=-1)[:, 0]


def seeded(sampling: Sampling) -> Sampling:
    """The same with a seed, drawn if it has none."""
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(64))


def make_chooser(sampling: Sampling) -> Chooser:
    """The chooser of a request; without a seed it gets one of its own."""
    back = looks_back(sampling)
    return Chooser(
        sampling=sampling,
        seed=seeded(sampling).seed or 0,
        is_plain=sampling.temperature == 0 and not back and not sampling.logit_bias,
        looks_back=back,
    )


def draw_key(seed: int, index: int) -> mx.array:
    """The key of draw number `index`: a hash, because splitting keys costs MLX operations."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, index), digest_size=8).digest()
    return mx.array(struct.unpack("<II", digest), mx.uint32)


def draw(logits: mx.array, key: mx.array) -> mx.array:
    """An index `[1]` for logits `[1, n]`, as often as its probability: the Gumbel-max trick.

    `mx.random.categorical` adds probabilities up in float32 and looks up one number: a difference
    in the last bits of 50,000 logits moves the result to a neighbour in 0.3 % of draws, and here in
    none of a thousand.
    """
    return mx.argmax(logits + mx.random.gumbel(logits.shape, key=key), axis=-1)


def most_likely(logits: mx.array, count: int) -> tuple[mx.array | None, mx.array]:
    """The `count` largest of the logits `[1, vocabulary]` and their ids; all, and None, for 0.

    They are in the order of their ids: in the order of their logits a difference in the last bit
    would hand a token another one's random number.
    """
    if not 0 < count < logits.shape[-1]:
        return None, logits
    ids = mx.sort(mx.argpartition(-logits, count - 1, axis=-1)[:, :count], axis=-1)
    return ids, mx.take_along_axis(logits, ids, axis=-1)


def restrict(logits: mx.array, sampling: Sampling) -> mx.array:
    """Set the logits `[1, n]` of tokens that may not be drawn to minus infinity.

    top_p first, then min_p of what is left, both after the temperature and after top_k.
    """
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
