"""Log lines: what programs can parse and people can read, whatever stands in them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from jang_runtime._service.logs import LogFormat, log_event, logging_to

# Quotes, an end of line and a terminal's escape: what somebody may try to put into the log.
NASTY = 'a "b"=c\n2026-01-01T00:00:00.000Z info call code=OK\x1b[2J\u202e'


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    form: LogFormat = request.param
    stream = io.StringIO()
    with logging_to(form, stream):
        yield stream


def test_nothing_is_written_any_more_once_the_server_has_ended() -> None:
    stream, ours = io.StringIO(), logging.getLogger("jang_runtime")
    before = ours.level, list(logging.getLogger().handlers)
    with logging_to("text", stream):
        log_event(ours, "during", {})
    log_event(ours, "afterwards", {}, logging.ERROR)
    assert "during" in stream.getvalue()
    assert "afterwards" not in stream.getvalue()
    assert (ours.level, list(logging.getLogger().handlers)) == before


@pytest.mark.parametrize("log", ["json"], indirect=True)
def test_every_line_of_json_is_one_object_whoever_wrote_it(log: io.StringIO) -> None:
    ours = logging.getLogger("jang_runtime")
    fields = {"seconds": 0.5, "caller": NASTY, "reason": "", "prompt_tokens": None, "tokens": 0}
    log_event(ours, "call", fields)
    logging.getLogger("grpc").warning("of a library: %s", NASTY)
    logging.getLogger("grpc").info("what nobody wants to know")
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        log_event(ours, "fault", {}, logging.ERROR, error)
    # Other controls than ASCII's, and marks of direction, too.
    assert log.getvalue().isascii()
    first, second, third = (json.loads(line) for line in log.getvalue().splitlines())
    for line in (first, second, third):
        assert line.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "event": "call",
        "seconds": 0.5,
        "caller": NASTY,
        "tokens": 0,
    }
    assert second == {
        "level": "warning",
        "event": "message",
        "logger": "grpc",
        "message": f"of a library: {NASTY}",
    }
    assert third.pop("traceback").startswith("Traceback (most recent call last):\n")
    assert third == {"level": "error", "event": "fault"}


@pytest.mark.parametrize("log", ["json"], indirect=True)
def test_an_answer_to_a_client_that_has_left_is_no_error_but_other_words_of_grpc_are(
    log: io.StringIO,
) -> None:
    grpc = logging.getLogger("grpc._cython.cygrpc")
    grpc.exception("ExecuteBatchError raised in core by servicer method [%s]", "/a.B/C")
    assert log.getvalue() == ""
    grpc.exception("Unexpected [%s] raised by servicer method [%s]", "ValueError", "/a.B/C")
    assert json.loads(log.getvalue())["level"] == "error"


@pytest.mark.parametrize("log", ["text"], indirect=True)
def test_nothing_that_a_client_sends_makes_a_line_or_moves_the_cursor(log: io.StringIO) -> None:
    ours = logging.getLogger("jang_runtime")
    log_event(ours, "call", {"method": "Generate", "caller": NASTY, "seconds": 0.123456789})
    logging.getLogger("grpc").warning(NASTY)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].split(" ", 1)[1] == (
        f"info call method=Generate caller={json.dumps(NASTY)} seconds=0.123457"
    )
    assert lines[1].endswith(f"warning message logger=grpc message={json.dumps(NASTY)}")
    assert all(line.isprintable() for line in lines)
