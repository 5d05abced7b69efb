"""KL divergence to a reference, and what else tells how far a model is from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from jang_eval._divergence import Positions
from jang_eval._evaluation import Item, Metric, Outcome, Task
from jang_eval._reference.fitting import check_tokens, check_vocabulary
from jang_eval._reference.protocols import Reference
from jang_eval._reference.served import following, rows_of
from jang_eval._statistics import (
    Doubles,
    Interval,
    bootstrap_of_means,
    bootstrap_of_quantiles,
    exponential,
    interval_of_share,
)
from jang_eval._target import Target
from jang_eval._windows import (
    Window,
    Windowing,
    block_names,
    check_fits,
    cut,
    read_texts,
    tokenize,
    tokens_digest,
)

# 2: whether the text's next token is the most likely one to either.
# 3: intervals of shares that are 0 or 1, and over the articles of wikitext.
TASK_VERSION: Final = 3

_QUANTILES: Final = {"median": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_CONFIDENCES: Final = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
# Of the numbers of each token in results, which are some 65 bytes a token together.
_DIGITS: Final = 7


def task(
    target: Target,
    reference: Reference,
    data: Sequence[Path],
    windowing: Windowing,
    seed: int,
) -> Task:
    """The task on text files.

    Args:
        target: The server that is judged.
        reference: What it is compared with.
        data: Texts; no window has tokens of two of them.
        windowing: How they are cut.
        seed: Of the draws for intervals.

    Raises:
        DataError: A file cannot be read, or is too short for a window, or the reference has
            other tokens.
        OptionError: The server does not take texts as long as a window.
        TargetError: The server is unreachable, too slow, or refuses.
    """
    check_fits(target, windowing)
    check_vocabulary(target, reference.model)
    texts, digest = read_texts(data)
    tokens = tokenize(target, texts)
    check_tokens(target, tokens_digest(tokens), reference.tokens_digest(texts), "text")
    windows = cut(tokens, windowing)
    unit, blocks = block_names(windows)

    def ask(target: Target, item: Item) -> Outcome:
        return compare(target, reference, item)

    def aggregate(outcomes: Sequence[Outcome]) -> list[Metric]:
        return metrics(outcomes, [blocks[outcome.id] for outcome in outcomes], seed)

    return Task(
        name="kl",
        version=TASK_VERSION,
        data_sha256=digest,
        settings=windowing.settings
        | reference.settings
        | {"tokens": tokens_digest(tokens), "blocks": unit, "seed": str(seed)},
        items=[Item(window.id, window.document, window) for window in windows],
        ask=ask,
        aggregate=aggregate,
    )


def compare(target: Target, reference: Reference, item: Item) -> Outcome:
    """Hold a server against the reference on one window."""
    window: Window = item.content
    # The reference first, and all of it: waiting for two servers at once could wait for ever.
    expected, tokens = reference.expected(window), following(window)
    parts = [expected.compare(at, rows, tokens[at]) for at, rows in rows_of(target, window)]
    arrays = {
        each.name: tuple(
            float(f"{value:.{_DIGITS}g}")
            for part in parts
            for value in getattr(part, each.name).tolist()
        )
        for each in fields(Positions)
    }
    return Outcome(item.id, item.group, {"tokens": window.scored}, arrays=arrays)


def metrics(outcomes: Sequence[Outcome], blocks: Sequence[str], seed: int) -> list[Metric]:
    """What all windows say together."""
    arrays = {
        each.name: np.array([value for outcome in outcomes for value in outcome.arrays[each.name]])
        for each in fields(Positions)
    }
    places = {block: n for n, block in enumerate(dict.fromkeys(blocks))}
    block = np.repeat(
        [places[name] for name in blocks], [len(outcome.arrays["top1"]) for outcome in outcomes]
    )
    positions = Positions(**arrays)

    def mean(
        name: str,
        values: Doubles,
        unit: str,
        better: str,
        transform: Callable[[float], float] = float,
        where: Doubles | None = None,
        interval_of: Callable[[Doubles, Doubles, int], Interval] = bootstrap_of_means,
    ) -> Metric:
        chosen = np.ones(len(values), np.bool_) if where is None else where.astype(np.bool_)
        counts = np.bincount(block[chosen], minlength=len(places)).astype(np.float64)
        sums = np.bincount(block[chosen], values[chosen], len(places)).astype(np.float64)
        used = counts > 0
        ends = None
        if used.sum() > 1:
            drawn = interval_of(sums[used], counts[used], seed)
            ends = Interval(transform(drawn.low), transform(drawn.high))
        value = transform(float(sums.sum() / counts.sum()))
        return Metric(name, value, ends, unit, better, int(counts.sum()))

    def share(name: str, values: Doubles, better: str, where: Doubles | None = None) -> Metric:
        return mean(name, values, "", better, where=where, interval_of=interval_of_share)

    change = np.exp(positions.logprob) - np.exp(positions.reference_logprob)
    excess = positions.reference_logprob - positions.logprob
    lost = positions.reference_right * (1 - positions.right)
    won = (1 - positions.reference_right) * positions.right
    return [
        mean("KL", positions.divergence, "nats", "lower"),
        *_quantiles(positions.divergence, block, seed),
        share("top-1 agreement", positions.top1, "higher"),
        share("top-5 agreement", positions.top5, "higher"),
        share("top-1 changed", 1 - positions.top1, "lower"),
        share("top-1 right to wrong", lost, "lower"),
        share("top-1 wrong to right", won, ""),
        mean("RMS change of probability", change**2, "", "lower", math.sqrt),
        mean("mean change of probability", change, "", ""),
        mean("perplexity", -positions.logprob, "per token", "lower", exponential),
        mean("reference perplexity", -positions.reference_logprob, "per token", "", exponential),
        mean("perplexity ratio", excess, "times", "lower", exponential),
        *[
            metric
            for low, high, where in _by_confidence(positions.confidence)
            for end in (f"confidence {low:g}-{high:g}",)
            for metric in (
                mean(f"KL/{end}", positions.divergence, "nats", "lower", where=where),
                share(f"top-1 agreement/{end}", positions.top1, "higher", where),
            )
        ],
    ]


def _quantiles(values: Doubles, block: npt.NDArray[np.int64], seed: int) -> list[Metric]:
    shares = list(_QUANTILES.values())
    found = np.quantile(values, shares, method="inverted_cdf")
    several = len(np.unique(block)) > 1
    intervals = bootstrap_of_quantiles(values, block, shares, seed) if several else [None] * 4
    count = len(values)
    return [
        *(
            Metric(f"KL/{name}", float(value), interval, "nats", "lower", count)
            for name, value, interval in zip(_QUANTILES, found, intervals, strict=True)
        ),
        Metric("KL/max", float(values.max()), None, "nats", "lower", count),
    ]


def _by_confidence(confidence: Doubles) -> list[tuple[float, float, Doubles]]:
    """The positions of each range of the reference's confidence that has any."""
    # The highest probability can be above 1 by its rounding.
    place = np.digitize(confidence, _CONFIDENCES[1:-1])
    return [
        (low, high, (place == n).astype(np.float64))
        for n, (low, high) in enumerate(pairwise(_CONFIDENCES))
        if (place == n).any()
    ]
