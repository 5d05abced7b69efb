"""Logit bias, and penalties on tokens that the text already has."""

from collections.abc import Mapping

import mlx.core as mx

from jang_runtime._requests import Sampling


def add_bias(logits: mx.array, bias: Mapping[int, float]) -> mx.array:
    """Add `bias`, by token id, to logits `[1, vocabulary]`."""
    ids = mx.array(list(bias.keys()), mx.uint32)
    values = mx.array(list(bias.values()), logits.dtype)
    return logits.at[:, ids].add(values)  # pyright: ignore[reportUnknownMemberType]


def looks_back(sampling: Sampling) -> bool:
    """Whether a request's penalties need to know its text."""
    return (
        sampling.repetition_penalty != 1
        or sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
    )


def penalize(logits: mx.array, text: mx.array, outputs: int, sampling: Sampling) -> mx.array:
    """Make tokens that came before less likely.

    Repetition as in CTRL (arXiv:1909.05858, section 4.1) over prompt and output: positive logits
    are divided, negative ones multiplied. Presence and frequency as in the OpenAI API, over the
    output: `presence + count * frequency` is subtracted.

    Args:
        logits: `[1, vocabulary]`.
        text: `[n]` ids of prompt and output.
        outputs: How many of the last of them are output.
        sampling: The penalties, and the window they look back over.
    """
    window = sampling.penalty_window or len(text)
    if sampling.repetition_penalty != 1:
        came = _counts(text[-window:], logits) > 0
        penalty = sampling.repetition_penalty
        penalized = mx.where(logits > 0, logits / penalty, logits * penalty)
        logits = mx.where(came, penalized, logits)
    seen = min(window, outputs)
    if seen and (sampling.presence_penalty != 0 or sampling.frequency_penalty != 0):
        counts = _counts(text[-seen:], logits)
        logits = logits - sampling.frequency_penalty * counts
        logits = logits - sampling.presence_penalty * (counts > 0)
    return logits


def _counts(text: mx.array, logits: mx.array) -> mx.array:
    """How often each token of the vocabulary is in `text`, `[1, vocabulary]`."""
    none = mx.zeros(logits.shape, logits.dtype)
    return none.at[0, text].add(1)  # pyright: ignore[reportUnknownMemberType]
