"""When a client asks again: one function, without a server and without time."""

import pytest

from jang_runtime import ClientOptionError, RetryPolicy, ServerError
from jang_runtime._retries import Tries, retry_delay

POLICY = RetryPolicy(tries=4, first_delay=1.0, longest_delay=3.0)


def failed(code: str, retry_after: float | None = None) -> ServerError:
    return ServerError("failed", code=code, retry_after=retry_after)


def delay(
    error: ServerError, attempt: int = 1, remaining: float | None = None, jitter: float = 1.0
) -> float | None:
    return retry_delay(POLICY, error, attempt, remaining=remaining, jitter=jitter)


def test_the_servers_wish_is_waited_for_and_at_most_a_quarter_longer() -> None:
    error = failed("RESOURCE_EXHAUSTED", retry_after=2.0)
    assert delay(error, jitter=0.0) == 2.0
    assert delay(error, jitter=1.0) == 2.5
    assert delay(failed("UNAVAILABLE", retry_after=0.0)) == 0.0


def test_a_server_that_wishes_for_longer_than_the_policy_is_not_asked_again() -> None:
    assert delay(failed("UNAVAILABLE", retry_after=3.1)) is None


def test_without_a_wish_the_delay_doubles_up_to_the_longest_and_half_of_it_is_chance() -> None:
    error = failed("UNAVAILABLE")
    assert [delay(error, attempt) for attempt in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert [delay(error, attempt, jitter=0.0) for attempt in (1, 2, 3)] == [0.5, 1.0, 1.5]


def test_the_last_try_is_the_last() -> None:
    assert delay(failed("UNAVAILABLE"), attempt=4) is None


def test_a_delay_that_the_deadline_does_not_allow_is_not_begun() -> None:
    error = failed("RESOURCE_EXHAUSTED", retry_after=2.0)
    assert delay(error, remaining=2.5) is None
    assert delay(error, remaining=2.6) == 2.5


@pytest.mark.parametrize(
    "code",
    [
        "RESOURCE_EXHAUSTED",
        "INVALID_ARGUMENT",
        "UNAUTHENTICATED",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "DEADLINE_EXCEEDED",
        "CANCELLED",
        "INTERNAL",
        "UNKNOWN",
    ],
)
def test_what_stays_as_it_is_is_not_asked_again(code: str) -> None:
    assert delay(failed(code)) is None
    if code != "RESOURCE_EXHAUSTED":
        assert delay(failed(code, retry_after=1.0)) is None


def test_the_tries_of_a_call_share_its_time() -> None:
    tries = Tries(RetryPolicy(first_delay=0.0), timeout=60.0)
    first = tries.begin()
    assert tries.delay_after(failed("UNAVAILABLE")) == 0.0
    second = tries.begin()
    assert first is not None
    assert second is not None
    assert 59 < second < first <= 60


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"tries": 0}, "tries: found 0, expected 1 or more"),
        ({"first_delay": -1.0}, "first_delay: found -1, expected 0 to longest_delay, 30"),
        ({"longest_delay": 0.1}, "first_delay: found 0.2, expected 0 to longest_delay, 0.1"),
    ],
)
def test_a_policy_out_of_range_is_refused(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(ClientOptionError) as caught:
        RetryPolicy(**numbers)  # type: ignore[arg-type]
    assert str(caught.value) == message
