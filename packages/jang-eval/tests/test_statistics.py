"""Intervals and tests against what is known of them."""

import math
from itertools import product

import numpy as np
import pytest

from jang_eval._statistics import (
    block_bootstrap,
    bootstrap_of_means,
    bootstrap_of_quantiles,
    interval_of_share,
    sign_flip_tests,
    sign_test,
    wilson,
)

SIGNS = [*product((1, -1), repeat=4)]


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # From R: prop.test(x, n, correct = FALSE)$conf.int
    [(0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0), (81, 263, 0.2552846, 0.3661751)],
)
def test_the_interval_of_a_share_is_wilsons(
    successes: int, count: int, low: float, high: float
) -> None:
    found = wilson(successes, count)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_no_questions_say_nothing_about_a_share() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_an_interval_of_blocks_holds_the_truth_as_often_as_it_says() -> None:
    # Values of a block have a part in common: as single values they would seem far more certain.
    draw = np.random.default_rng(3)
    held = naive = 0
    for seed in range(100):
        common = draw.normal(size=(40, 1))
        values = common + 0.1 * draw.normal(size=(40, 50))
        interval = bootstrap_of_means(values.sum(axis=1), np.full(40, 50.0), seed)
        held += interval.low <= 0 <= interval.high
        half = 1.96 * values.std() / math.sqrt(values.size)
        naive += abs(values.mean()) <= half
    assert held >= 86
    assert naive < 50


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_is_the_same_everywhere_is_as_sure_as_there_are_blocks(share: float) -> None:
    counts = np.array([40.0, 3.0, 7.0, 19.0])
    assert interval_of_share(share * counts, counts, seed=0) == wilson(round(share * 4), 4)


def test_any_other_share_is_drawn_anew_by_blocks() -> None:
    sums, counts = np.array([40.0, 3.0, 6.0, 19.0]), np.array([40.0, 3.0, 7.0, 19.0])
    assert interval_of_share(sums, counts, seed=2) == bootstrap_of_means(sums, counts, seed=2)


def test_the_two_bootstraps_of_a_mean_are_one() -> None:
    draw = np.random.default_rng(4)
    blocks = [draw.normal(size=size) for size in (3, 40, 7, 19)]
    slow = block_bootstrap(blocks, lambda values: float(values.mean()), seed=5)
    fast = bootstrap_of_means(
        np.array([block.sum() for block in blocks]),
        np.array([float(len(block)) for block in blocks]),
        seed=5,
    )
    assert slow.low == pytest.approx(fast.low, abs=0.05)
    assert slow.high == pytest.approx(fast.high, abs=0.05)
    again = block_bootstrap(blocks, lambda values: float(values.mean()), seed=5)
    assert again == slow


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 5), (0, 6), (9, 1), (700, 800)])
def test_the_sign_test_counts_all_ways_that_coins_can_fall(first: int, second: int) -> None:
    found = sign_test(first, second)
    assert found == sign_test(second, first)
    if first + second > 12:
        # By the normal distribution, with Yates' correction.
        z = (abs(first - second) - 1) / math.sqrt(first + second)
        assert found == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
        return
    falls = [sum(coins) for coins in product((0, 1), repeat=first + second)]
    as_far = [n for n in falls if abs(2 * n - first - second) >= abs(first - second)]
    assert found == pytest.approx(len(as_far) / len(falls))


def test_quantiles_of_drawn_blocks_are_those_of_their_values() -> None:
    random = np.random.default_rng(3)
    blocks = [random.exponential(size=n) for n in (40, 7, 100, 23, 60)]
    owner = np.repeat(np.arange(5), [len(each) for each in blocks])
    shares = [0.5, 0.9, 0.99, 1.0]
    found = bootstrap_of_quantiles(np.concatenate(blocks), owner, shares, seed=4)
    for share, interval in zip(shares, found, strict=True):
        assert interval == block_bootstrap(
            blocks, lambda v, q=share: float(np.quantile(v, q, method="inverted_cdf")), seed=4
        )


def test_sign_flips_of_few_blocks_are_all_tried_and_of_many_enough_are_drawn() -> None:
    few = np.array([[1.0, 2.0, -0.5, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    sums = [sum(s * d for s, d in zip(signs, few[0], strict=True)) for signs in SIGNS]
    expected = sum(abs(each) >= 5.5 for each in sums) / 16
    assert sign_flip_tests(few, 0) == [expected, 1.0, 2 / 16]

    many = np.random.default_rng(1).normal(0.25, 1.0, (1, 100))
    normal = math.erfc(abs(many.sum()) / math.sqrt(2 * (many**2).sum()))
    assert 0.001 < normal < 0.2
    assert sign_flip_tests(many, 0)[0] == pytest.approx(normal, rel=0.15)
    # What was found is one of those that were drawn.
    assert sign_flip_tests(np.ones((1, 60)), 0) == [1e-4]
