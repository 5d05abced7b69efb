"""Whether one model's mean is another than another's where both read the same texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from jang_eval._evaluation import EvaluationResult, Outcome
from jang_eval._statistics import Doubles, Interval, bootstrap_of_means, holm, sign_flip_tests


@dataclass(frozen=True)
class MeanTest:
    """Two models on the same texts.

    Attributes:
        metric: Whose mean.
        unit: The difference's.
        first: Label of a model.
        second: Label of another.
        difference: The first's mean less the second's.
        interval: 95 %, from blocks drawn anew, with both models' values of each.
        blocks: How many windows, documents or prompts.
        p: Of a sign-flip test of the blocks' differences.
        p_adjusted: `p` for as many tests as this task has (Holm 1979, jstor:4615733).
    """

    metric: str
    unit: str
    first: str
    second: str
    difference: float
    interval: Interval
    blocks: int
    p: float
    p_adjusted: float


@dataclass(frozen=True)
class _Mean:
    metric: str
    unit: str
    total: Callable[[Outcome], float]


_MEANS: Final = {
    "kl": _Mean("KL", "nats", lambda outcome: sum(outcome.arrays.get("divergence", ()))),
    "perplexity": _Mean("loss", "nats", lambda outcome: outcome.numbers.get("loss", 0.0)),
    "logit-mse": _Mean(
        "logit MSE", "squared logits", lambda outcome: outcome.numbers.get("mse", 0.0)
    ),
}


def mean_tests(results: Sequence[tuple[str, EvaluationResult]]) -> tuple[MeanTest, ...]:
    """Tests each two models in the mean that the task has over windows, documents or prompts.

    Args:
        results: Of one task, with the same texts, each with its model's label.
    """
    first = results[0][1]
    mean = _MEANS.get(first.task)
    if mean is None or not first.outcomes:
        return ()
    blocks = _blocks(first)
    counts = _sums(first, blocks, lambda outcome: outcome.numbers.get("tokens", 0.0))
    pairs = list(combinations(range(len(results)), 2))
    if len(counts) < 2 or counts.min() <= 0 or not pairs:
        return ()
    sums = [_sums(result, blocks, mean.total) for _, result in results]
    differences = np.stack([sums[one] - sums[other] for one, other in pairs])
    seed = _seed(first)
    values = sign_flip_tests(differences, seed)
    return tuple(
        MeanTest(
            mean.metric,
            mean.unit,
            results[one][0],
            results[other][0],
            float(difference.sum() / counts.sum()),
            bootstrap_of_means(difference, counts, seed),
            len(counts),
            p,
            adjusted,
        )
        for (one, other), difference, p, adjusted in zip(
            pairs, differences, values, holm(values), strict=True
        )
    )


def _blocks(result: EvaluationResult) -> list[int]:
    """The place of each outcome's block: as for the intervals that the result has."""
    by_document = result.settings.get("blocks") == "documents"
    names = [each.group if by_document else each.id for each in result.outcomes]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return [places[name] for name in names]


def _sums(
    result: EvaluationResult, blocks: Sequence[int], total: Callable[[Outcome], float]
) -> Doubles:
    values = [total(outcome) for outcome in result.outcomes]
    return np.bincount(np.array(blocks), np.array(values)).astype(np.float64)


def _seed(result: EvaluationResult) -> int:
    seed = result.settings.get("seed", "")
    return int(seed) if seed.isdecimal() else 0
