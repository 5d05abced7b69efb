"""What programs read from stderr while a command works."""

import json

import pytest
import typer

from jang_format import terminal
from jang_format.terminal import event_errors, event_progress


def events(stderr: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in stderr.splitlines()]


def test_events_of_progress_are_ten_a_second_with_the_last_and_the_time_that_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock)
    with event_progress("converting") as show:
        for done in range(0, 1000, 7):
            show(done, 1000, f"module {done}")
            # Ten thousand bytes take 30 seconds, so that each takes 3 ms.
            clock += 7 * 0.003
        show(1000, 1000, "the last\u2028")
    seen = events(capsys.readouterr().err)
    assert len(seen) == pytest.approx(1000 * 0.003 / 0.1, abs=6)
    assert {event["event"] for event in seen} == {"progress"}
    assert seen[0] == {
        "event": "progress",
        "stage": "converting",
        "done": 0,
        "total": 1000,
        "path": "module 0",
        "seconds_left": None,
    }
    for event in seen[1:]:
        left = (1000 - event["done"]) * 0.003  # type: ignore[operator]
        assert event["seconds_left"] == pytest.approx(left, abs=0.051)
    assert (seen[-1]["done"], seen[-1]["path"]) == (1000, "the last\u2028")
    assert len([event for event in seen if event["done"] == 1000]) == 1


@pytest.mark.parametrize(
    ("error", "event", "status"),
    [
        (ValueError("two\nlines"), {"event": "error", "message": "two\nlines"}, 2),
        (KeyboardInterrupt(), {"event": "stopped"}, 130),
    ],
)
def test_an_error_is_an_event_in_one_line_with_the_status_that_people_get(
    capsys: pytest.CaptureFixture[str], error: BaseException, event: object, status: int
) -> None:
    with pytest.raises(typer.Exit) as caught, event_errors(ValueError):
        raise error
    assert caught.value.exit_code == status
    assert events(capsys.readouterr().err) == [event]
