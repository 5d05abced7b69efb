"""How well predictions agree with measurements, over orders of magnitude."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Of predictions with measurements.

    Attributes:
        count: How many.
        pearson: Correlation of the logarithms.
        spearman: Correlation of the ranks.
        ratio: Median of measured over predicted.
    """

    count: int
    pearson: float
    spearman: float
    ratio: float


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Compare positive numbers, pair by pair."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    return Agreement(
        count=len(x),
        pearson=_correlation(np.log(x), np.log(y)),
        spearman=_correlation(_ranks(x), _ranks(y)),
        ratio=float(np.median(y / x)),
    )


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place of each value in their order; equal ones share the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]
