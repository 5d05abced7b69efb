"""Perplexity of texts, in both conventions in use; see `Convention`."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from jang_eval._evaluation import Item, Metric, Outcome, Task
from jang_eval._statistics import Doubles, Interval, bootstrap_of_means, exponential
from jang_eval._target import Target
from jang_eval._windows import (
    Text,
    Window,
    Windowing,
    block_names,
    check_fits,
    cut,
    read_texts,
    tokenize,
    tokens_digest,
)

# 2: intervals over the articles of wikitext.
TASK_VERSION: Final = 2

_WHITESPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True)
class Length:
    """How long the texts are; words as lm-evaluation-harness counts them."""

    tokens: int
    words: int
    bytes: int


def task(target: Target, data: Sequence[Path], windowing: Windowing, seed: int) -> Task:
    """The task on text files.

    Args:
        target: The server that is judged, which makes the tokens.
        data: Texts; no window has tokens of two of them.
        windowing: How they are cut.
        seed: Of the draws for intervals.

    Raises:
        DataError: A file cannot be read, or is too short for a window.
        OptionError: The server does not take texts as long as a window.
        TargetError: The server is unreachable, too slow, or refuses.
    """
    check_fits(target, windowing)
    texts, digest = read_texts(data)
    tokens = tokenize(target, texts)
    windows = cut(tokens, windowing)
    length = _length(texts, sum(len(each.ids) for each in tokens))
    unit, blocks = block_names(windows)

    def aggregate(outcomes: Sequence[Outcome]) -> list[Metric]:
        return metrics(outcomes, [blocks[outcome.id] for outcome in outcomes], length, seed)

    return Task(
        name="perplexity",
        version=TASK_VERSION,
        data_sha256=digest,
        settings=windowing.settings
        | {"tokens": tokens_digest(tokens), "blocks": unit, "seed": str(seed)},
        items=[Item(window.id, window.document, window) for window in windows],
        ask=ask,
        aggregate=aggregate,
    )


def ask(target: Target, item: Item) -> Outcome:
    """How likely the tokens of one window are that count."""
    window: Window = item.content
    context, counted = window.tokens[: window.first], window.tokens[window.first :]
    (score,) = target.score(context, [counted])
    # Not `score.logprob`: how it was added up is the server's affair.
    loss = -math.fsum(score.token_logprobs)
    return Outcome(item.id, item.group, {"loss": loss, "tokens": len(counted)})


def metrics(
    outcomes: Sequence[Outcome], blocks: Sequence[str], length: Length, seed: int
) -> list[Metric]:
    """Perplexity by token, word and byte.

    The loss of a word is that of a token times the tokens that there are to a word in the whole
    text. lm-evaluation-harness divides likewise, but its windows do not overlap, and its first
    token counts too, after a mark: its numbers are others.
    """
    losses, counts = _sums(outcomes, blocks)
    count = int(counts.sum())
    loss = float(losses.sum() / count)
    interval = bootstrap_of_means(losses, counts, seed) if len(losses) > 1 else None

    def raised(name: str, unit: str, factor: float) -> Metric:
        ends = interval and Interval(
            exponential(factor * interval.low), exponential(factor * interval.high)
        )
        return Metric(name, exponential(factor * loss), ends, unit, "lower", count)

    bits = length.tokens / length.bytes / math.log(2)
    bit_ends = interval and Interval(bits * interval.low, bits * interval.high)
    return [
        raised("perplexity", "per token", 1.0),
        Metric("loss", loss, interval, "nats per token", "lower", count),
        raised("word perplexity", "per word", length.tokens / length.words),
        raised("byte perplexity", "per byte", length.tokens / length.bytes),
        Metric("bits per byte", bits * loss, bit_ends, "bits", "lower", count),
    ]


def _sums(outcomes: Sequence[Outcome], blocks: Sequence[str]) -> tuple[Doubles, Doubles]:
    """Loss and tokens of each block."""
    places = {block: n for n, block in enumerate(dict.fromkeys(blocks))}
    losses, counts = np.zeros(len(places)), np.zeros(len(places))
    for outcome, block in zip(outcomes, blocks, strict=True):
        losses[places[block]] += outcome.numbers["loss"]
        counts[places[block]] += outcome.numbers["tokens"]
    return losses, counts


def _length(texts: Sequence[Text], tokens: int) -> Length:
    return Length(
        tokens=tokens,
        words=sum(len(_WHITESPACE.split(text.content)) for text in texts),
        bytes=sum(len(text.content.encode()) for text in texts),
    )
