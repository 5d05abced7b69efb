"""How far models are from their reference: KL divergence on text, all of them window by window."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import mlx.core as mx
import numpy as np
from models import Logits
from numpy.typing import NDArray

REFERENCE: Final = "reference"


@dataclass(frozen=True)
class Divergence:
    """What windows of text say of a model; divergences are KL(reference || model) in nats.

    Attributes:
        windows: Mean over the positions of each window.
        median: Over all positions.
        p99: Which one position in a hundred exceeds.
        agreement: Share of positions where both find the same token most likely.
        perplexity: Of the text.
    """

    windows: tuple[float, ...]
    median: float
    p99: float
    agreement: float
    perplexity: float

    @property
    def mean(self) -> float:
        """Mean over all positions."""
        return float(np.mean(self.windows))


@dataclass(frozen=True)
class _Positions:
    """One window, position by position; the last one has no following token."""

    divergence: NDArray[np.float32]
    agreement: NDArray[np.bool_]
    loss: NDArray[np.float32]


def measure(
    reference: Logits,
    models: Mapping[str, Logits],
    windows: NDArray[np.int32],
    on_window: Callable[[int], None] = lambda done: None,
) -> dict[str, Divergence]:
    """Run windows `[n, length]` through all models; the reference is among the results."""
    everyone = {REFERENCE: reference, **models}
    found: dict[str, list[_Positions]] = {name: [] for name in everyone}
    for done, window in enumerate(windows, 1):
        tokens = mx.array(window)[None]
        expected = _log_probabilities(reference, tokens)
        for name, model in everyone.items():
            given = expected if model is reference else _log_probabilities(model, tokens)
            found[name].append(_compare(expected, given, tokens[0]))
        on_window(done)
    return {name: _summary(positions) for name, positions in found.items()}


def _log_probabilities(model: Logits, tokens: mx.array) -> mx.array:
    logits = model(tokens)[0].astype(mx.float32)
    found = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    mx.eval(found)  # pyright: ignore[reportUnknownMemberType] - open in mlx's stubs
    return found


def _compare(expected: mx.array, given: mx.array, tokens: mx.array) -> _Positions:
    divergence = mx.sum(mx.exp(expected) * (expected - given), axis=-1)
    same = mx.argmax(given, axis=-1) == mx.argmax(expected, axis=-1)
    following = mx.take_along_axis(given[:-1], tokens[1:, None], axis=-1)
    return _Positions(
        divergence=np.array(divergence, dtype=np.float32),
        agreement=np.array(same, dtype=np.bool_),
        loss=-np.array(following[:, 0], dtype=np.float32),
    )


def _summary(windows: list[_Positions]) -> Divergence:
    everywhere = np.concatenate([window.divergence for window in windows])
    losses = [float(window.loss.mean(dtype=np.float64)) for window in windows]
    return Divergence(
        windows=tuple(float(window.divergence.mean(dtype=np.float64)) for window in windows),
        median=float(np.median(everywhere)),
        p99=float(np.quantile(everywhere, 0.99)),
        agreement=float(np.mean([cast(float, window.agreement.mean()) for window in windows])),
        perplexity=math.exp(float(np.mean(losses))),
    )
