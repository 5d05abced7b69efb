"""A call has a name, a trace and a line in the log."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from runpy import run_path
from typing import Any

import grpc
import pytest

from jang_runtime import _errors as errors
from jang_runtime._service.calls import current_call

Run = Callable[[Callable[[], Awaitable[None]]], None]
Service = Callable[..., AbstractAsyncContextManager[Any]]

SCRIPTED = run_path(str(Path(__file__).parent / "scripted_service.py"))
run, service = SCRIPTED["run"], SCRIPTED["service"]
SECRET = "the text of the prompt"


def test_a_call_is_answered_under_the_name_that_it_came_with_or_a_new_one(
    run: Run, service: Service
) -> None:
    async def test() -> None:
        async with service() as served:
            named = served.generate("x", metadata=(("x-request-id", "a-Z_0.9:"),))
            assert (await named).text == "a-Z_0.9:"
            assert dict(await named.initial_metadata())["x-request-id"] == "a-Z_0.9:"
            names = set()
            for _ in range(2):
                stream = served.stream("x")
                assert [event async for event in stream]
                names.add(dict(await stream.initial_metadata())["x-request-id"])
            assert len(names) == 2
            assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)
            assert {line["request_id"] for line in served.lines()} == {"a-Z_0.9:", *names}

    run(test)


@pytest.mark.parametrize(
    "values", [[""], ["a b"], ["x" * 129], ["a/b"], ["a", "b"]], ids=lambda values: str(values)[:20]
)
def test_a_name_that_cannot_be_is_refused(run: Run, service: Service, values: list[str]) -> None:
    async def test() -> None:
        async with service() as served:
            metadata = tuple(("x-request-id", value) for value in values)
            error, details = await served.failure(served.generate("x", metadata=metadata))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details["ErrorInfo"].reason == "INVALID_METADATA"
            assert details["BadRequest"].field_violations[0].field == "x-request-id"
            # The log has a name all the same, one that nobody chose.
            line = await served.line()
            assert dict(error.trailing_metadata())["x-request-id"] == line["request_id"]
            assert re.fullmatch(r"[0-9a-f]{32}", line["request_id"])

    run(test)


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        ("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "ab" * 16),
        ("01-" + "ab" * 16 + "-" + "cd" * 8 + "-01-more", "ab" * 16),
        ("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01-more", None),
        ("ff-" + "ab" * 16 + "-" + "cd" * 8 + "-01", None),
        ("00-" + "00" * 16 + "-" + "cd" * 8 + "-01", None),
        ("00-" + "ab" * 16 + "-" + "00" * 8 + "-01", None),
        ("00-" + "AB" * 16 + "-" + "cd" * 8 + "-01", None),
        ("hello", None),
    ],
)
def test_a_trace_context_is_logged_and_one_that_is_ill_formed_ignored(
    run: Run, service: Service, traceparent: str, trace_id: str | None
) -> None:
    async def test() -> None:
        async with service() as served:
            await served.generate("x", metadata=(("traceparent", traceparent),))
            assert (await served.line()).get("trace_id") == trace_id

    run(test)


def test_the_log_has_one_line_for_a_call_with_its_numbers_and_none_of_its_text(
    run: Run, service: Service
) -> None:
    async def fill_in() -> None:
        call = current_call()
        call.prompt_tokens, call.cached_prompt_tokens = 7, 4
        call.finish_reason = "EOS"
        call.queue_seconds, call.prefill_seconds, call.decode_seconds = 0.25, 0.5, 0.125
        call.note_tokens(1)
        call.note_tokens(2)

    async def test() -> None:
        wrong = errors.InvalidRequestError("prompt.text", repr(SECRET), "something else")
        scripts = {SECRET: fill_in, SECRET + "!": wrong}
        async with service(**scripts) as served:
            await served.generate(SECRET)
            await served.failure(served.generate(SECRET + "!"))
            good, bad = await served.line(1), await served.line(2)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", good.pop("time"))
            assert re.fullmatch(r"[0-9a-f]{32}", good.pop("request_id"))
            assert good.pop("peer").startswith("ipv4:127.0.0.1:")
            assert 0 < good.pop("first_token_seconds") <= good.pop("seconds")
            assert good == {
                "level": "info",
                "event": "call",
                "method": "Generate",
                "code": "OK",
                "finish_reason": "EOS",
                "prompt_tokens": 7,
                "cached_prompt_tokens": 4,
                "completion_tokens": 3,
                "queue_seconds": 0.25,
                "prefill_seconds": 0.5,
                "decode_seconds": 0.125,
            }
            assert bad["error"] == "prompt.text"
            assert SECRET not in served.log.getvalue()
            assert served.value("jang_time_to_first_token_seconds_count") == 1
            assert served.value("jang_time_between_tokens_seconds_count") == 2
            assert served.value("jang_queue_seconds_sum") == 0.25

    run(test)


def test_the_log_has_the_prompt_where_the_servicer_was_told_to_give_it(
    run: Run, service: Service
) -> None:
    async def tell() -> None:
        current_call().prompt_text = SECRET

    async def test() -> None:
        async with service(told=tell) as served:
            await served.generate("told")
            assert (await served.line())["prompt"] == SECRET

    run(test)


def test_calls_at_once_do_not_see_each_other(run: Run, service: Service) -> None:
    async def test() -> None:
        async with service(pause=lambda: asyncio.sleep(0.05)) as served:
            names = [f"call-{number}" for number in range(50)]
            answers = await asyncio.gather(
                *(served.generate("pause", metadata=(("x-request-id", name),)) for name in names)
            )
            assert [answer.text for answer in answers] == names
            assert served.value("jang_open_calls") == 0

    run(test)
