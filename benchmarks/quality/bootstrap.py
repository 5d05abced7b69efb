"""Intervals for means over windows of text: windows are drawn again, whole, with replacement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DRAWS: Final = 10_000
_SEED: Final = 0
_ENDS: Final = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """Where 95 % of the drawn means, or ratios of means, lie."""

    low: float
    high: float


def interval_of_mean(windows: Sequence[float]) -> Interval:
    """Of the mean of one model."""
    return _interval(_means(windows))


def interval_of_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Of the ratio of two models' means, on the same windows in each draw."""
    return _interval(_means(ours) / _means(theirs))


def _means(windows: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(windows, dtype=np.float64)
    drawn = np.random.default_rng(_SEED).integers(0, len(values), (_DRAWS, len(values)))
    return values[drawn].mean(axis=1)


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, _ENDS)
    return Interval(float(low), float(high))
