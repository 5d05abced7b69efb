"""What `speed` makes of the moments at which tokens come."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jang_eval._errors import OptionError, TargetError
from jang_eval._evaluation import Outcome, Task
from jang_eval._server_answers import Arrivals, ServerInfo
from jang_eval._target import Target
from jang_eval._tasks.speed import Load, metrics, rate, task


class Server:
    """Answers at once, and keeps what it was asked."""

    address = "127.0.0.1:1"

    def __init__(self) -> None:
        self.prompts: list[tuple[int, ...]] = []

    def model_info(self) -> Any:
        return SimpleNamespace(context_length=1000, vocabulary_size=10**9)

    def server_info(self) -> ServerInfo:
        return ServerInfo("1", "cpu", 1, 0.5, 1, 1)

    def most_prompt_tokens(self) -> int:
        return 1000

    def arrivals(self, prompt: tuple[int, ...], count: int) -> Arrivals:
        self.prompts.append(prompt)
        return Arrivals((1.0, 2.0), (1, count - 1))


def asked_of(server: Server) -> Task:
    return task(cast(Target, server), Load(prompt_tokens=20, streams=2, rounds=2), 0)


def test_no_prompt_comes_to_a_server_twice_however_often_it_is_measured() -> None:
    server = Server()
    digests: set[str] = set()
    for _ in range(2):
        asked = asked_of(server)
        digests.add(asked.data_sha256)
        for item in asked.items:
            asked.ask(cast(Target, server), item)
    assert len(digests) == 1
    assert len(server.prompts) == 2 * 3 * 3
    assert sorted({len(each) for each in server.prompts}) == [16, 20]
    assert len({each[:2] for each in server.prompts}) == len(server.prompts)
    # The rest is the seed's.
    assert len({each[2:] for each in server.prompts}) == len(server.prompts) // 2


@pytest.mark.parametrize("first", [2, 3])
def test_what_goes_on_after_an_interruption_warms_the_server_up_again(first: int) -> None:
    server = Server()
    asked = asked_of(server)
    for item in asked.items[first:]:
        asked.ask(cast(Target, server), item)
    tokens: tuple[int, ...] = asked.items[0].content
    assert server.prompts[0] == tokens[:20]
    assert len(server.prompts) == 3 * (len(asked.items) - first)


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
