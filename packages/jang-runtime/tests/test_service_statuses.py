"""What a client is told of an error: its status, with details, and nothing of a fault inside."""

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from runpy import run_path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import _errors as errors
from jang_runtime._service import statuses
from jang_runtime._service.standards import RUNTIME_SERVICE

Run = Callable[[Callable[[], Awaitable[None]]], None]
Service = Callable[..., AbstractAsyncContextManager[Any]]

SCRIPTED = run_path(str(Path(__file__).parent / "scripted_service.py"))
run, service = SCRIPTED["run"], SCRIPTED["service"]


# For each error: code, reason, and what else its details say.
ERRORS: list[tuple[Exception, grpc.StatusCode, str, dict[str, str | float]]] = [
    (
        errors.InvalidRequestError("sampling.temperature", 101, "0 to 100"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        {"field": "sampling.temperature", "description": "found 101, expected 0 to 100"},
    ),
    (
        errors.InvalidMetadataError("x-request-id", "'a b'", "letters"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_METADATA",
        {"field": "x-request-id", "description": "found 'a b', expected letters"},
    ),
    (
        errors.NoChatTemplateError("prompt.chat"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "NO_CHAT_TEMPLATE",
        {},
    ),
    (
        errors.CacheTooSmallError("prompt: 9 bytes"),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "CACHE_TOO_SMALL",
        {},
    ),
    (
        errors.ModelNotFoundError("other", "served"),
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
        {},
    ),
    (
        errors.QueueFullError(64, 1.25),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        {"retry": 1.25},
    ),
    (
        errors.SlowReaderError("results were not read"),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SLOW_READER",
        {},
    ),
    (
        errors.RequestIdInUseError("x-request-id: in use"),
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_IN_USE",
        {},
    ),
    (
        errors.NotServingError("the model is loading", 2.0),
        grpc.StatusCode.UNAVAILABLE,
        "LOADING",
        {"retry": 2.0},
    ),
    (
        errors.NotServingError("the server is about to end", None),
        grpc.StatusCode.UNAVAILABLE,
        "DRAINING",
        {},
    ),
    (
        errors.EngineStoppedError("the engine has stopped"),
        grpc.StatusCode.UNAVAILABLE,
        "ENGINE_STOPPED",
        {},
    ),
    (
        errors.UnauthenticatedError("no token", has_token=False),
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_MISSING",
        {},
    ),
    (
        errors.UnauthenticatedError("unknown token", has_token=True),
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_UNKNOWN",
        {},
    ),
    (errors.AbortedError("stopped by its name"), grpc.StatusCode.CANCELLED, "ABORTED", {}),
    (
        errors.GenerationError("the step failed"),
        grpc.StatusCode.INTERNAL,
        "GENERATION_FAILED",
        {},
    ),
]


def test_every_error_that_has_a_status_is_tried_here() -> None:
    assert {type(error) for error, *_ in ERRORS} == set(statuses._TABLE)


@pytest.mark.parametrize(
    ("error", "code", "reason", "more"), ERRORS, ids=[reason for _, _, reason, _ in ERRORS]
)
def test_an_error_ends_a_call_with_its_code_reason_and_details(
    run: Run,
    service: Service,
    error: Exception,
    code: grpc.StatusCode,
    reason: str,
    more: dict[str, str | float],
) -> None:
    async def test() -> None:
        async with service(bad=error) as served:
            for call in (
                served.generate("bad"),
                served.stream("bad"),
                served.stream("later bad"),
            ):
                found, details = await served.failure(call)
                assert (found.code(), found.details()) == (code, str(error))
                info = details.pop("ErrorInfo")
                assert (info.domain, info.reason) == ("jang.runtime", reason)
                if "field" in more:
                    [violation] = details.pop("BadRequest").field_violations
                    assert violation.field == more["field"]
                    assert violation.description == more["description"]
                if "retry" in more:
                    delay = details.pop("RetryInfo").retry_delay.ToTimedelta()
                    assert delay.total_seconds() == more["retry"]
                assert not details
            line = await served.line(3)
            assert (line["code"], line["reason"]) == (code.name, reason)
            assert served.value("jang_rejected_calls_total", reason=reason) == 3
            assert served.value("jang_calls_total", method="Generate", code=code.name) == 1

    run(test)


def test_a_fault_of_the_server_tells_the_client_nothing_and_the_log_where_it_was(
    run: Run, service: Service
) -> None:
    async def test() -> None:
        async with service(bad=KeyError("inner secret")) as served:
            error, details = await served.failure(served.generate("bad"))
            assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
            assert details["ErrorInfo"].reason == "INTERNAL_ERROR"
            assert "inner secret" not in str(error.trailing_metadata())
            [fault] = served.lines("fault")
            assert fault["level"] == "error"
            assert "raise script" in fault["traceback"]
            assert fault["request_id"] == (await served.line())["request_id"]
            assert (await served.generate("good")).text

    run(test)


def test_a_message_of_any_length_arrives_shortened(run: Run, service: Service) -> None:
    long = errors.InvalidRequestError("prompt.text", "\N{GRINNING FACE}" * 20_000, "less")

    async def test() -> None:
        async with service(bad=long) as served:
            error, details = await served.failure(served.generate("bad"))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details().startswith("prompt.text: found \N{GRINNING FACE}")
            assert error.details().endswith("expected less")
            assert details["BadRequest"].field_violations[0].field == "prompt.text"

    run(test)


def test_bytes_that_are_no_message_are_the_clients_mistake(
    run: Run, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with service() as served:
            service_name = f"/{RUNTIME_SERVICE}"
            for call in (
                served.channel.unary_unary(f"{service_name}/Generate")(b"\xff\xff"),
                served.channel.unary_stream(f"{service_name}/GenerateStream")(b"\xff\xff"),
                # Text that is no UTF-8.
                served.channel.unary_unary(f"{service_name}/Generate")(b"\x0a\x03\x0a\x01\xff"),
            ):
                error, details = await served.failure(call)
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert details["ErrorInfo"].reason == "INVALID_FIELD"
                assert details["BadRequest"].field_violations[0].field == "request"

    run(test)
    assert not [record for record in caplog.records if record.name.startswith("grpc")]


def test_an_error_at_once_can_be_repeated_by_grpcs_own_retries_and_still_has_a_name(
    run: Run, service: Service
) -> None:
    failures = iter(
        [errors.QueueFullError(1, 0.01), errors.NotServingError("the model is loading", 0.01)]
    )

    async def fail_twice() -> None:
        for error in failures:
            raise error

    retries = {
        "methodConfig": [
            {
                "name": [{"service": RUNTIME_SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }

    async def test() -> None:
        options = [("grpc.service_config", json.dumps(retries))]
        async with service(busy=fail_twice) as served:
            async with grpc.aio.insecure_channel(served.address, options=options) as channel:
                stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
                metadata = (("x-request-id", "mine"),)
                request = pb.GenerateRequest(prompt=pb.Prompt(text="busy"))
                assert (await stub.Generate(request, metadata=metadata)).text == "mine"
            codes = [line["code"] for line in served.lines()]
            assert codes == ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "OK"]

    run(test)


def test_details_can_be_read_with_grpc_status(run: Run, service: Service) -> None:
    async def test() -> None:
        async with service(bad=errors.QueueFullError(2, 0.5)) as served:
            call = served.generate("bad")
            await served.failure(call)
            status = await rpc_status.aio.from_call(call)
            assert [one.type_url.rpartition(".")[2] for one in status.details] == [
                "ErrorInfo",
                "RetryInfo",
            ]

    run(test)
