"""Which of two models finds the text's next token most likely, position by position."""

import numpy as np
import pytest

from jang_eval._divergence import FullRows, Positions, TopRows, log_of_sum, log_softmax, most_likely
from jang_eval._evaluation import Outcome
from jang_eval._tasks.kl import metrics

# The most likely token by the reference and by the model, and the one that the text has.
TOPS = ((1, 1, 1), (1, 2, 1), (1, 2, 1), (3, 4, 4), (3, 4, 0), (5, 5, 0))


def rows(tops: list[int]) -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(len(tops), 8)).astype(np.float32)
    made[np.arange(len(tops)), tops] += 9
    return made


@pytest.mark.parametrize("kept", [None, 6])
def test_changes_of_the_most_likely_token_are_split_by_what_the_text_has(kept: int | None) -> None:
    reference, model, text = (list(each) for each in zip(*TOPS, strict=True))
    exact, following = log_softmax(rows(reference)), np.array(text, np.uint32)
    if kept is None:
        expected = FullRows(exact)
    else:
        ids = most_likely(exact, kept)
        others = exact.copy()
        np.put_along_axis(others, ids, -np.inf, axis=-1)
        own = exact[np.arange(len(text)), following]
        top = np.take_along_axis(exact, ids, axis=-1)
        expected = TopRows(ids, top, log_of_sum(others), own)
    found: Positions = expected.compare(slice(0, len(text)), rows(model), following)
    arrays = {name: tuple(values.tolist()) for name, values in vars(found).items()}
    outcome = Outcome("t:0", "t", {"tokens": len(text)}, arrays=arrays)
    values = {metric.name: metric.value for metric in metrics([outcome], ["t:0"], 0)}
    assert values["top-1 changed"] == pytest.approx(4 / 6)
    assert values["top-1 right to wrong"] == pytest.approx(2 / 6)
    assert values["top-1 wrong to right"] == pytest.approx(1 / 6)
