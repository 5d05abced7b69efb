"""How far logits are from a reference's on some prompts: mean squared difference and cosine."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from jang_eval._evaluation import Item, Metric, Outcome, Task
from jang_eval._prompts import Prompt, prompts_digest, prompts_sha256, tokenize_prompts
from jang_eval._reference.fitting import check_tokens, check_vocabulary
from jang_eval._reference.protocols import PromptReference
from jang_eval._reference.served import prompt_rows
from jang_eval._statistics import Doubles, bootstrap_of_means
from jang_eval._target import Target

TASK_VERSION: Final = 1

# Rows that are worked on at a time: in float64 all of a long prompt would be gigabytes.
_ROWS: Final = 64


def task(target: Target, reference: PromptReference, prompts: Sequence[str], seed: int) -> Task:
    """The task on prompts.

    Args:
        target: The server that is judged.
        reference: What it is compared with.
        prompts: At least one.
        seed: Of the draws for intervals.

    Raises:
        DataError: The reference has another vocabulary, or other tokens.
        TargetError: A server is unreachable, too slow, or refuses.
    """
    check_vocabulary(target, reference.model)
    asked = tokenize_prompts(target, prompts)
    check_tokens(target, prompts_digest(asked), reference.prompts_digest(prompts), "prompts")

    def ask(target: Target, item: Item) -> Outcome:
        return compare(target, reference, item)

    def aggregate(outcomes: Sequence[Outcome]) -> list[Metric]:
        return metrics(outcomes, seed)

    return Task(
        name="logit-mse",
        version=TASK_VERSION,
        data_sha256=prompts_sha256(prompts),
        settings=reference.settings | {"seed": str(seed)},
        items=[Item(prompt.id, "prompts", prompt) for prompt in asked],
        ask=ask,
        aggregate=aggregate,
    )


def compare(target: Target, reference: PromptReference, item: Item) -> Outcome:
    """Hold the logits after every token of a prompt against the reference's."""
    prompt: Prompt = item.content
    # The reference first, and all of it: waiting for two servers at once could wait for ever.
    expected, given = reference.logits(prompt), prompt_rows(target, prompt)
    parts = [
        _distances(expected[begin : begin + _ROWS], given[begin : begin + _ROWS])
        for begin in range(0, len(given), _ROWS)
    ]
    squares, cosines = (np.concatenate(each) for each in zip(*parts, strict=True))
    numbers = {"tokens": len(prompt.tokens), "mse": squares.sum(), "cosine": cosines.sum()}
    numbers |= {"last mse": squares[-1], "last cosine": cosines[-1]}
    return Outcome(
        item.id,
        item.group,
        {name: float(value) for name, value in numbers.items()},
        {"prompt": prompt.text},
    )


def metrics(outcomes: Sequence[Outcome], seed: int) -> list[Metric]:
    """Means over all tokens of all prompts, and over the prompts' last tokens."""
    tokens = np.array([outcome.numbers["tokens"] for outcome in outcomes])
    ones = np.ones(len(outcomes))

    def mean(name: str, key: str, counts: Doubles, unit: str, better: str) -> Metric:
        sums = np.array([outcome.numbers[key] for outcome in outcomes])
        interval = bootstrap_of_means(sums, counts, seed) if len(sums) > 1 else None
        value = float(sums.sum() / counts.sum())
        return Metric(name, value, interval, unit, better, int(counts.sum()))

    return [
        mean("logit MSE", "mse", tokens, "squared logits", "lower"),
        mean("cosine", "cosine", tokens, "of 1", "higher"),
        mean("logit MSE/last token", "last mse", ones, "squared logits", "lower"),
        mean("cosine/last token", "last cosine", ones, "of 1", "higher"),
    ]


def _distances(
    expected: npt.NDArray[np.floating], given: npt.NDArray[np.floating]
) -> tuple[Doubles, Doubles]:
    """Mean squared difference and cosine of each row of logits."""
    one, other = _centred(expected), _centred(given)
    lengths = np.linalg.norm(other, axis=-1) * np.linalg.norm(one, axis=-1)
    cosines = (other * one).sum(axis=-1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return ((other - one) ** 2).mean(axis=-1), cosines


def _centred(logits: npt.NDArray[np.floating]) -> Doubles:
    """Logits less the mean of their row, which changes no probability."""
    rows = logits.astype(np.float64)
    return rows - rows.mean(axis=-1, keepdims=True)
