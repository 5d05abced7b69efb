"""How far one distribution of the next token is from another, position by position, in float64."""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from jang_eval._statistics import Doubles

TOP: Final = 5

Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Positions:
    """What n positions say; every field is `[n]`.

    Attributes:
        divergence: KL(reference || model) in nats.
        reference_logprob: Of the token that the text has next.
        logprob: The same by the model.
        confidence: The probability of the reference's most likely token.
        top1: 1 where both find the same token most likely, else 0.
        top5: Share of the reference's five most likely tokens that are among the model's.
        reference_right: 1 where the reference's most likely token is the text's next, else 0.
        right: The same of the model's.
    """

    divergence: Doubles
    reference_logprob: Doubles
    logprob: Doubles
    confidence: Doubles
    top1: Doubles
    top5: Doubles
    reference_right: Doubles
    right: Doubles


class Expected(Protocol):
    """What a reference says of the positions of one window."""

    def compare(self, at: slice, logits: npt.NDArray[np.float32], following: Ids) -> Positions:
        """Hold a model's logits `[n, vocabulary]` of some positions against it.

        Args:
            at: The positions.
            logits: The model's.
            following: The tokens that the text has next, `[n]`.
        """
        ...


@dataclass(frozen=True)
class FullRows:
    """All of a reference's logits, `[positions, vocabulary]`, up to a constant in each row.

    `following` is the log-probability of the text's next tokens where it is known more exactly.
    """

    logits: npt.NDArray[np.floating]
    following: Doubles | None = None

    def compare(self, at: slice, logits: npt.NDArray[np.float32], following: Ids) -> Positions:
        """See `Expected`."""
        expected, given = log_softmax(self.logits[at]), log_softmax(logits)
        mine = pick(expected, following) if self.following is None else self.following[at]
        tops = expected.argmax(axis=-1), given.argmax(axis=-1)
        return Positions(
            divergence=divergence(expected, given),
            reference_logprob=mine,
            logprob=pick(given, following),
            confidence=np.exp(expected.max(axis=-1)),
            top1=(tops[0] == tops[1]).astype(np.float64),
            top5=_shared(most_likely(expected, TOP), most_likely(given, TOP)),
            reference_right=(tops[0] == following).astype(np.float64),
            right=(tops[1] == following).astype(np.float64),
        )


@dataclass(frozen=True)
class TopRows:
    """A reference's k most likely tokens, the most likely first, and what is left for all others.

    The divergence is that between distributions in which all other tokens are one: at most the
    whole one's, and below it by what the two differ in how they share the rest out.

    Attributes:
        ids: `[positions, k]`.
        logprobs: Their log-probabilities.
        rest: Logarithm of the other tokens' probability, `[positions]`; -inf where there are none.
        following: Log-probability of the text's next tokens, `[positions]`.
    """

    ids: Ids
    logprobs: Doubles
    rest: Doubles
    following: Doubles

    def compare(self, at: slice, logits: npt.NDArray[np.float32], following: Ids) -> Positions:
        """See `Expected`."""
        ids, expected = self.ids[at], self.logprobs[at]
        given = log_softmax(logits)
        kept = np.take_along_axis(given, ids, axis=-1)
        others = given.copy()
        np.put_along_axis(others, ids, -np.inf, axis=-1)
        rest = log_of_sum(others)
        top = given.argmax(axis=-1)
        both = np.concatenate([expected, self.rest[at][:, None]], axis=-1)
        return Positions(
            divergence=divergence(both, np.concatenate([kept, rest[:, None]], axis=-1)),
            reference_logprob=self.following[at],
            logprob=pick(given, following),
            confidence=np.exp(expected[:, 0]),
            top1=(ids[:, 0] == top).astype(np.float64),
            top5=_shared(ids[:, :TOP], most_likely(given, TOP)),
            reference_right=(ids[:, 0] == following).astype(np.float64),
            right=(top == following).astype(np.float64),
        )


def log_softmax(logits: npt.NDArray[np.floating]) -> Doubles:
    """Logarithms of the probabilities of each row."""
    rows = logits.astype(np.float64)
    return rows - log_of_sum(rows)[:, None]


def log_of_sum(rows: Doubles) -> Doubles:
    """Logarithm of the sum of each row's powers of e; -inf where all of it is -inf."""
    most = np.maximum(rows.max(axis=-1), _LEAST)
    with np.errstate(divide="ignore"):
        return most + np.log(np.exp(rows - most[:, None]).sum(axis=-1))


# Instead of -inf, which taken from itself is no number.
_LEAST: Final = -1e30


def divergence(expected: Doubles, given: Doubles) -> Doubles:
    """KL of two rows of log-probabilities; exactly 0 where they are the same.

    Where the model has no probability for what the reference has some for it is capped at 1e30.
    """
    probability = np.exp(expected)
    difference = np.maximum(expected, _LEAST) - np.maximum(given, _LEAST)
    return (probability * difference).sum(axis=-1)


def pick(rows: Doubles, tokens: Ids) -> Doubles:
    """Of each row the entry of one token; what can never come is 1e30 below what must."""
    found = np.take_along_axis(rows, tokens[:, None].astype(np.int64), axis=-1)[:, 0]
    return np.maximum(found, _LEAST)


def most_likely(rows: npt.NDArray[np.floating], count: int) -> Ids:
    """The most likely tokens of each row, `[n, count]`, the most likely first."""
    found = np.argpartition(rows, -count, axis=-1)[:, -count:]
    # Among equals the one of the lowest id is first, as argmax has it.
    found.sort(axis=-1)
    order = np.argsort(-np.take_along_axis(rows, found, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, axis=-1).astype(np.uint32)


def _shared(expected: Ids, given: Ids) -> Doubles:
    same = expected[:, :, None] == given[:, None, :]
    return same.any(axis=-1).mean(axis=-1, dtype=np.float64)
