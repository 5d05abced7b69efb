"""Intervals and tests, so that no number stands alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]

# Of the normal distribution, for 95 %.
_Z: Final = 1.959963984540054
_EXPONENT_MAX: Final = 700.0
_RESAMPLES: Final = 2000
_LOW, _HIGH = 2.5, 97.5
_BLOCKS_TRIED: Final = 14
_SIGNS_DRAWN: Final = 10_000


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def exponential(value: float) -> float:
    """The power of e, or the greatest that is sure to have a number in JSON.

    A broken model's word perplexity can be more than a float holds.
    """
    return math.exp(min(value, _EXPONENT_MAX))


def wilson(successes: int, count: int) -> Interval:
    """The interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    if count == 0:
        return Interval(0.0, 1.0)
    share = successes / count
    denominator = 1 + _Z**2 / count
    center = (share + _Z**2 / (2 * count)) / denominator
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / denominator
    return Interval(max(0.0, center - half), min(1.0, center + half))


def block_bootstrap(
    blocks: Sequence[Doubles], statistic: Callable[[Doubles], float], seed: int
) -> Interval:
    """The interval of a statistic of values that come in blocks, such as tokens in documents.

    Blocks are drawn with replacement, whole, because values within one are not independent
    (percentile bootstrap, Efron 1979, doi:10.1214/aos/1176344552).

    Args:
        blocks: Values `[n]` or rows `[n, k]` of each block.
        statistic: Of the values of some blocks, one after the other.
        seed: Of the draws.
    """
    draw = np.random.default_rng(seed)
    found: list[float] = []
    for _ in range(_RESAMPLES):
        indices = cast(list[int], draw.integers(len(blocks), size=len(blocks)).tolist())
        chosen = [blocks[index] for index in indices]
        found.append(statistic(np.concatenate(chosen)))
    low, high = np.percentile(found, [_LOW, _HIGH])
    return Interval(float(low), float(high))


def bootstrap_of_means(sums: Doubles, counts: Doubles, seed: int) -> Interval:
    """`block_bootstrap` of a mean over all values, from each block's sum `[n]` and count `[n]`."""
    draw = np.random.default_rng(seed)
    chosen = draw.integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.percentile(means, [_LOW, _HIGH])
    return Interval(float(low), float(high))


def interval_of_share(sums: Doubles, counts: Doubles, seed: int) -> Interval:
    """`bootstrap_of_means` of values from 0 to 1, also where all of them are 0, or all 1.

    There every draw gives the same, which would say that nothing else can be. Blocks are then
    taken as single answers, by Wilson's interval: values within one are not independent.
    """
    for none_or_all in (0.0, 1.0):
        if np.array_equal(sums, none_or_all * counts):
            return wilson(round(none_or_all * len(sums)), len(sums))
    return bootstrap_of_means(sums, counts, seed)


def bootstrap_of_quantiles(
    values: Doubles, block: npt.NDArray[np.int64], shares: Sequence[float], seed: int
) -> list[Interval]:
    """`block_bootstrap` of several quantiles (the least value with that share at or below it).

    Args:
        values: `[n]`.
        block: In which block each of them is, counted from 0, `[n]`.
        shares: Which quantiles, above 0 and up to 1.
        seed: Of the draws.
    """
    order = np.argsort(values)
    ordered, owner = values[order], block[order]
    blocks = int(block.max()) + 1
    draw = np.random.default_rng(seed)
    found = np.empty((_RESAMPLES, len(shares)))
    for n in range(_RESAMPLES):
        times = np.bincount(draw.integers(blocks, size=blocks), minlength=blocks)
        until = np.cumsum(times[owner])
        wanted = np.ceil(np.array(shares) * until[-1] - 1e-9)
        found[n] = ordered[np.searchsorted(until, wanted)]
    low, high = np.percentile(found, [_LOW, _HIGH], axis=0)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def sign_flip_tests(differences: Doubles, seed: int) -> list[float]:
    """How likely so great a difference is where either model could as well have been the other.

    Paired permutation tests, two-sided: the sum of the differences beside those with other signs.
    Of up to 14 blocks all signs are tried, of more 9,999 are drawn, and what was found counts
    among them (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).

    Args:
        differences: Between two models in each block, `[pairs, blocks]`.
        seed: Of the draws.
    """
    blocks = differences.shape[1]
    if blocks <= _BLOCKS_TRIED:
        negative = np.array([*product((0.0, 1.0), repeat=blocks)])
    else:
        draw = np.random.default_rng(seed)
        negative = draw.integers(0, 2, size=(_SIGNS_DRAWN, blocks)).astype(np.float64)
        negative[0] = 0.0
    found = np.abs((1.0 - 2.0 * negative) @ differences.T)
    # What differs only by how it was added up is as great.
    as_great = found >= np.abs(differences.sum(axis=1)) * (1 - 1e-9)
    return [float(share) for share in as_great.mean(axis=0)]


def sign_test(only_first: int, only_second: int) -> float:
    """How likely such a difference is where two models are equally good (McNemar's exact test).

    Args:
        only_first: Questions that only the first model answered rightly.
        only_second: Questions that only the second did.
    """
    count = only_first + only_second
    if count == 0:
        return 1.0
    fewer = min(only_first, only_second)
    # In logarithms: 2**count is too large for a float from 1024 on.
    tail = sum(math.exp(_log_binomial(count, k) - count * math.log(2)) for k in range(fewer + 1))
    return min(1.0, 2 * tail)


def holm(values: Sequence[float]) -> list[float]:
    """Makes p-values of several tests hold for all of them together (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def _log_binomial(count: int, k: int) -> float:
    return math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
