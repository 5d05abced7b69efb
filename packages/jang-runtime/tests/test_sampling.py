"""Choosing tokens: restrictions against a slow reference, seeds, and how often tokens come."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jang_runtime import Sampling
from jang_runtime._sampling import draw, draw_key, make_chooser, most_likely, restrict


def allowed_tokens(probabilities: list[float], sampling: Sampling) -> set[int]:
    """Which tokens may be drawn, one rule after the other."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(probabilities[i] for i in order)
    kept: list[int] = []
    for token in order:
        if sum(probabilities[i] for i in kept) / total < sampling.top_p:
            kept.append(token)
    return {i for i in kept if probabilities[i] >= sampling.min_p * probabilities[order[0]]}


@settings(deadline=None)
@given(
    weights=st.permutations([1, 2, 4, 8, 16, 32, 64, 128]),
    top_k=st.integers(0, 8),
    top_p=st.sampled_from([0.1, 0.4, 0.7, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.2, 0.6]),
)
def test_top_k_top_p_and_min_p_keep_the_tokens_they_say(
    weights: list[int], top_k: int, top_p: float, min_p: float
) -> None:
    probabilities = [weight / sum(weights) for weight in weights]
    sampling = Sampling(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    ids, logits = most_likely(mx.log(mx.array([probabilities])), sampling.top_k)
    logits = restrict(logits, sampling)
    names = range(8) if ids is None else np.array(ids)[0]
    kept = {i for i, logit in zip(names, np.array(logits)[0], strict=True) if logit > -np.inf}
    assert kept == allowed_tokens(probabilities, sampling)


def draws(sampling: Sampling, probabilities: list[float], count: int) -> list[int]:
    chooser = make_chooser(sampling)
    logprobs = mx.log(mx.array([probabilities]))
    return [int(chooser.choose(logprobs, None, index).item()) for index in range(count)]


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert set(draws(Sampling(temperature=0.0), [0.2, 0.5, 0.3], 5)) == {1}


def test_one_seed_gives_one_sequence_and_another_seed_another() -> None:
    flat = [1 / 16] * 16
    first = draws(Sampling(temperature=1.0, seed=3), flat, 24)
    assert draws(Sampling(temperature=1.0, seed=3), flat, 24) == first
    assert draws(Sampling(temperature=1.0, seed=4), flat, 24) != first
    assert draws(Sampling(temperature=1.0), flat, 24) != draws(Sampling(temperature=1.0), flat, 24)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_tempered_probability(temperature: float) -> None:
    probabilities = np.array([0.1, 0.2, 0.7])
    expected = probabilities ** (1 / temperature)
    expected /= expected.sum()
    counts = np.bincount(
        draws(Sampling(temperature=temperature, seed=1), probabilities.tolist(), 3000), minlength=3
    )
    # Five standard deviations of a binomial count.
    assert np.all(np.abs(counts / 3000 - expected) < 5 * np.sqrt(expected * (1 - expected) / 3000))


@pytest.mark.parametrize("top_k", [0, 50])
def test_last_bits_of_logits_do_not_change_what_is_drawn(top_k: int) -> None:
    # What a product of matrices rounds otherwise in a batch must not lead to another text.
    logits = mx.random.normal((1, 49152), key=mx.random.key(1)) * 2
    drawn: list[list[int]] = [[], []]
    for index in range(400):
        noise = mx.random.normal(logits.shape, key=mx.random.key(index)) * 4e-6
        for into, row in zip(drawn, (logits, logits + noise), strict=True):
            ids, kept = most_likely(row, top_k)
            place = draw(kept, draw_key(7, index))
            into.append(int(place.item() if ids is None else ids[0, place.item()].item()))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 30
