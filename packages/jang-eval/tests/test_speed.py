"""What `speed` makes of the moments at which tokens come."""

import pytest

from jang_eval._errors import OptionError, TargetError
from jang_eval._evaluation import Outcome
from jang_eval._target import Arrivals
from jang_eval._tasks.speed import Load, metrics, rate


def test_what_comes_with_the_first_message_is_not_counted_as_decoded() -> None:
    assert rate([Arrivals((10.0, 11.0, 12.0), (2, 3, 1))]) == 4 / 2


def test_streams_together_have_the_time_from_the_first_token_of_any_to_the_last_of_all() -> None:
    early = Arrivals((10.0, 11.0), (1, 1))
    late = Arrivals((12.0, 14.0), (1, 5))
    assert rate([late, early]) == 7 / 4


def test_tokens_that_all_come_at_once_have_no_rate() -> None:
    with pytest.raises(TargetError, match="in one message"):
        rate([Arrivals((10.0,), (64,))])


def test_medians_leave_out_the_warm_up_and_hold_an_interval_within_what_was_measured() -> None:
    firsts = {"warm-up": 100.0, "1": 2.0, "2": 1.0, "3": 4.0}
    outcomes = [
        Outcome(name, "rounds", {"first token": first, "decode": 8.0, "decode of streams": 20.0})
        for name, first in firsts.items()
    ]
    server = {"load": 0.5, "peak memory": 0.0, "resident memory": 300.0}
    found = {
        each.name: each
        for each in metrics(
            [*outcomes, Outcome("server", "server", server)], Load(prompt_tokens=100, rounds=3), 0
        )
    }
    assert {name: each.value for name, each in found.items()} == {
        "decode": 8.0,
        "decode of 4 streams": 20.0,
        "prefill": 50.0,
        "time to first token": 2.0,
        "load": 0.5,
        "resident memory": 300.0,
    }
    interval = found["time to first token"].interval
    assert interval is not None
    assert (interval.low, interval.high) == (1.0, 4.0)
    assert found["time to first token"].count == 3
    # A server that does not say how much it takes has not taken nothing.
    assert "peak memory" not in found


@pytest.mark.parametrize("field", ["prompt_tokens", "decode_tokens", "streams", "rounds"])
def test_nothing_cannot_be_measured(field: str) -> None:
    with pytest.raises(OptionError, match=f"{field}: found 0, expected"):
        Load(**{field: 0})
