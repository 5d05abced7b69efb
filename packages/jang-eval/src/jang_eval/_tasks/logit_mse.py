"""How far logits are from a reference's on some prompts: mean squared difference and cosine."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from jang_eval._errors import DataError
from jang_eval._evaluation import Item, Metric, Outcome, Task
from jang_eval._reference import checked_rows
from jang_eval._statistics import Doubles, bootstrap_of_means
from jang_eval._target import Target

TASK_VERSION: Final = 1


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a file of prompts, one a line; empty lines are passed over.

    Raises:
        DataError: The file cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found no UTF-8 ({error.reason}), expected text") from error
    prompts = tuple(line for line in lines if line.strip())
    if not prompts:
        raise DataError(f"{path}: found no prompt, expected one a line")
    return prompts


def task(reference: Target, prompts: Sequence[str], seed: int) -> Task:
    """The task on prompts.

    Args:
        reference: A server to compare with.
        prompts: At least one.
        seed: Of the draws for intervals.

    Raises:
        TargetError: The reference is unreachable, too slow, or refuses.
    """
    model = reference.model_info()

    def ask(target: Target, item: Item) -> Outcome:
        return compare(target, reference, item)

    def aggregate(outcomes: Sequence[Outcome]) -> list[Metric]:
        return metrics(outcomes, seed)

    return Task(
        name="logit-mse",
        version=TASK_VERSION,
        data_sha256=hashlib.sha256(json.dumps([*prompts]).encode()).hexdigest(),
        settings={
            "reference": model.name,
            "reference digest": model.digest,
            "seed": str(seed),
        },
        items=[Item(str(n), "prompts", prompt) for n, prompt in enumerate(prompts, 1)],
        ask=ask,
        aggregate=aggregate,
    )


def compare(target: Target, reference: Target, item: Item) -> Outcome:
    """Hold the logits after every token of a prompt against the reference's."""
    tokens = target.tokenize(item.content)
    if tokens != reference.tokenize(item.content):
        raise DataError(
            f"server {target.address}: found other tokens of prompt {item.id} than the reference "
            "has, expected the same"
        )
    # The reference first, and all of it: waiting for two servers at once could wait for ever.
    expected, given = (_centred(server, item.id, tokens) for server in (reference, target))
    if expected.shape != given.shape:
        raise DataError(
            f"server {target.address}: found a vocabulary of {given.shape[1]} tokens, "
            f"expected {expected.shape[1]} as the reference has"
        )
    squares = ((given - expected) ** 2).mean(axis=-1)
    lengths = np.linalg.norm(given, axis=-1) * np.linalg.norm(expected, axis=-1)
    cosines = (given * expected).sum(axis=-1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    numbers = {"tokens": len(tokens), "mse": squares.sum(), "cosine": cosines.sum()}
    numbers |= {"last mse": squares[-1], "last cosine": cosines[-1]}
    return Outcome(
        item.id,
        item.group,
        {name: float(value) for name, value in numbers.items()},
        {"prompt": item.content},
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


def _centred(server: Target, name: str, tokens: tuple[int, ...]) -> Doubles:
    """Logits less the mean of their row, which changes no probability: `[tokens, vocabulary]`."""
    positions = tuple(range(len(tokens)))
    parts = [rows for _, rows in checked_rows(server, f"prompt {name}", tokens, positions)]
    rows = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(rows).all():
        raise DataError(f"server {server.address}: found infinite logits of prompt {name}")
    return rows - rows.mean(axis=-1, keepdims=True)
