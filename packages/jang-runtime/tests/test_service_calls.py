"""The interceptor around every call: real sockets, and a servicer that does as it is told."""

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import _errors as errors
from jang_runtime._service import statuses
from jang_runtime._service.access import TokenFile
from jang_runtime._service.calls import CallInterceptor, current_call
from jang_runtime._service.logs import JsonFormatter
from jang_runtime._service.metrics import Metrics
from jang_runtime._service.standards import RUNTIME_SERVICE, Health, add_health, add_reflection

TOKEN = "a-token-of-team-one"
SECRET = "the text of the prompt"


class Scripted(runtime_pb2_grpc.RuntimeServiceServicer):
    """Runs the script that the text of a prompt names, then answers."""

    def __init__(self, scripts: dict[str, Callable[[], Awaitable[None]]]) -> None:
        self.scripts = scripts
        self.closed = asyncio.Event()
        self.large = b""

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        try:
            await self._run(request.prompt.text)
        finally:
            self.closed.set()
        return pb.GenerateResponse(text=current_call().request_id)

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        try:
            if request.prompt.text.startswith("later "):
                yield pb.GenerateStreamResponse(started=pb.Started(request_id="first"))
            await self._run(request.prompt.text.removeprefix("later "))
            while request.prompt.text == "endless":
                yield pb.GenerateStreamResponse(delta=pb.Delta(text="x" * 100_000))
            yield pb.GenerateStreamResponse(finished=pb.Finished())
        finally:
            self.closed.set()

    async def _run(self, name: str) -> None:
        if name in self.scripts:
            await self.scripts[name]()


@dataclass
class Service:
    stub: runtime_pb2_grpc.RuntimeServiceStub
    channel: grpc.aio.Channel
    address: str
    metrics: Metrics
    health: Health
    servicer: Scripted
    log: io.StringIO = field(default_factory=io.StringIO)

    def lines(self, event: str = "call") -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]

    async def line(self, number: int = 1) -> dict[str, Any]:
        """The line of the so-manieth call; the client may have its answer a moment before."""
        while len(self.lines()) < number:
            await asyncio.sleep(0.01)
        return self.lines()[number - 1]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def service(
    tokens: TokenFile | None = None,
    stall_seconds: float = 60.0,
    **scripts: Callable[[], Awaitable[None]],
) -> AsyncIterator[Service]:
    log = io.StringIO()
    logger = logging.Logger("edge", logging.INFO)
    handler = logging.StreamHandler(log)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    metrics, servicer = Metrics(), Scripted(scripts)
    server = grpc.aio.server(interceptors=[CallInterceptor(tokens, metrics, logger, stall_seconds)])
    runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
    health = add_health(server)
    add_reflection(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
            yield Service(stub, channel, address, metrics, health, servicer, log)
    finally:
        await server.stop(None)


Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs coroutines in one event loop: events that gRPC has for a closed one would be lost."""
    with asyncio.Runner() as runner:

        def run_one(test: Callable[[], Awaitable[None]]) -> None:
            async def bounded() -> None:
                await asyncio.wait_for(test(), 60)

            runner.run(bounded())

        yield run_one
        runner.run(asyncio.sleep(0.1))


def fail_with(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


async def wait_forever() -> None:
    await asyncio.Event().wait()


def request(text: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=pb.Prompt(text=text))


def stream_request(text: str) -> pb.GenerateStreamRequest:
    return pb.GenerateStreamRequest(prompt=pb.Prompt(text=text))


async def failure(call: Any) -> tuple[grpc.aio.AioRpcError, dict[str, Any]]:
    """The error that ends a call, and its details by the name of their type."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall | grpc.aio.StreamStreamCall):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error, details_of(error)
    raise AssertionError("the call did not fail")


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    if packed is None:
        return {}
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    details = {}
    for any_ in status.details:
        name = any_.type_url.rpartition(".")[2]
        details[name] = getattr(error_details_pb2, name).FromString(any_.value)
    return details


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
    run: Run, error: Exception, code: grpc.StatusCode, reason: str, more: dict[str, str | float]
) -> None:
    async def test() -> None:
        async with service(bad=fail_with(error)) as served:
            for call in (
                served.stub.Generate(request("bad")),
                served.stub.GenerateStream(stream_request("bad")),
                served.stub.GenerateStream(stream_request("later bad")),
            ):
                found, details = await failure(call)
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


def test_a_fault_of_the_server_tells_the_client_nothing_and_the_log_where_it_was(run: Run) -> None:
    async def test() -> None:
        async with service(bad=fail_with(KeyError("inner secret"))) as served:
            error, details = await failure(served.stub.Generate(request("bad")))
            assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
            assert details["ErrorInfo"].reason == "INTERNAL_ERROR"
            assert "inner secret" not in str(error.trailing_metadata())
            [fault] = served.lines("fault")
            assert fault["level"] == "error"
            assert "raise error" in fault["traceback"]
            assert fault["request_id"] == (await served.line())["request_id"]
            assert (await served.stub.Generate(request("good"))).text

    run(test)


def test_a_message_of_any_length_arrives_shortened(run: Run) -> None:
    long = errors.InvalidRequestError("prompt.text", "\N{GRINNING FACE}" * 20_000, "less")

    async def test() -> None:
        async with service(bad=fail_with(long)) as served:
            error, details = await failure(served.stub.Generate(request("bad")))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details().startswith("prompt.text: found \N{GRINNING FACE}")
            assert error.details().endswith("expected less")
            assert details["BadRequest"].field_violations[0].field == "prompt.text"

    run(test)


def test_bytes_that_are_no_message_are_the_clients_mistake(
    run: Run,
    caplog: pytest.LogCaptureFixture,
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
                error, details = await failure(call)
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert details["ErrorInfo"].reason == "INVALID_FIELD"
                assert details["BadRequest"].field_violations[0].field == "request"

    run(test)
    assert not [record for record in caplog.records if record.name.startswith("grpc")]


def test_a_call_is_answered_under_the_name_that_it_came_with_or_a_new_one(run: Run) -> None:
    async def test() -> None:
        async with service() as served:
            named = served.stub.Generate(request("x"), metadata=(("x-request-id", "a-Z_0.9:"),))
            assert (await named).text == "a-Z_0.9:"
            assert dict(await named.initial_metadata())["x-request-id"] == "a-Z_0.9:"
            names = set()
            for _ in range(2):
                stream = served.stub.GenerateStream(stream_request("x"))
                assert [event async for event in stream]
                names.add(dict(await stream.initial_metadata())["x-request-id"])
            assert len(names) == 2
            assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)
            assert {line["request_id"] for line in served.lines()} == {"a-Z_0.9:", *names}

    run(test)


@pytest.mark.parametrize(
    "values", [[""], ["a b"], ["x" * 129], ["a/b"], ["a", "b"]], ids=lambda values: str(values)[:20]
)
def test_a_name_that_cannot_be_is_refused(run: Run, values: list[str]) -> None:
    async def test() -> None:
        async with service() as served:
            metadata = tuple(("x-request-id", value) for value in values)
            error, details = await failure(served.stub.Generate(request("x"), metadata=metadata))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details["ErrorInfo"].reason == "INVALID_METADATA"
            assert details["BadRequest"].field_violations[0].field == "x-request-id"
            # The log has a name all the same, one that nobody chose.
            line = await served.line()
            assert dict(error.trailing_metadata())["x-request-id"] == line["request_id"]
            assert re.fullmatch(r"[0-9a-f]{32}", line["request_id"])

    run(test)


def test_an_error_at_once_can_be_repeated_by_grpcs_own_retries_and_still_has_a_name(
    run: Run,
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
                assert (await stub.Generate(request("busy"), metadata=metadata)).text == "mine"
            codes = [line["code"] for line in served.lines()]
            assert codes == ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "OK"]

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
    run: Run, traceparent: str, trace_id: str | None
) -> None:
    async def test() -> None:
        async with service() as served:
            await served.stub.Generate(request("x"), metadata=(("traceparent", traceparent),))
            assert (await served.line()).get("trace_id") == trace_id

    run(test)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# teams\n\nteam-one {TOKEN}\nteam.two  another-token-of-two\n")
    path.chmod(0o600)
    return path


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_only_callers_with_a_token_of_the_file_get_in_and_the_log_has_their_names(
    run: Run,
    token_file: Path,
) -> None:
    refused = [
        ((), "TOKEN_MISSING"),
        ((("authorization", f"Basic {TOKEN}"),), "TOKEN_MISSING"),
        ((("authorization", TOKEN),), "TOKEN_MISSING"),
        ((*bearer(TOKEN), *bearer(TOKEN)), "TOKEN_MISSING"),
        (bearer("no-such-token-here"), "TOKEN_UNKNOWN"),
        (bearer(TOKEN + "x"), "TOKEN_UNKNOWN"),
        (bearer(TOKEN[:-1]), "TOKEN_UNKNOWN"),
    ]

    async def test() -> None:
        async with service(TokenFile(token_file)) as served:
            for metadata, reason in refused:
                for call in (
                    served.stub.Generate(request("x"), metadata=metadata),
                    served.stub.GenerateStream(stream_request("x"), metadata=metadata),
                ):
                    error, details = await failure(call)
                    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                    assert details["ErrorInfo"].reason == reason
            assert not served.servicer.closed.is_set()
            for token in (TOKEN, "another-token-of-two"):
                await served.stub.Generate(request("x"), metadata=bearer(token))
            await served.stub.Generate(
                request("x"), metadata=(("authorization", f"bearer {TOKEN}"),)
            )
            callers = [line.get("caller") for line in served.lines()]
            assert callers[-3:] == ["team-one", "team.two", "team-one"]
            assert set(callers[:-3]) == {None}
            assert "token-of" not in served.log.getvalue()
            assert "no-such-token" not in served.log.getvalue()

    run(test)


def test_probes_need_no_token_and_are_not_logged_while_reflection_needs_one(
    run: Run,
    token_file: Path,
) -> None:
    async def test() -> None:
        async with service(TokenFile(token_file)) as served:
            health = health_pb2_grpc.HealthStub(served.channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            _, details = await failure(reflection.ServerReflectionInfo(iter([asked])))
            assert details["ErrorInfo"].reason == "TOKEN_MISSING"
            stream = reflection.ServerReflectionInfo(iter([asked]), metadata=bearer(TOKEN))
            [listed] = [answer async for answer in stream]
            names = {one.name for one in listed.list_services_response.service}
            assert {RUNTIME_SERVICE, "grpc.health.v1.Health"} < names
            assert [line["method"] for line in served.lines()] == ["ServerReflectionInfo"] * 2

    run(test)


def test_a_client_that_goes_away_ends_the_work_at_once(run: Run) -> None:
    async def test() -> None:
        async with service(wait=wait_forever) as served:
            methods = (
                (served.stub.Generate, request("wait")),
                (served.stub.GenerateStream, stream_request("wait")),
            )
            for number, (method, message) in enumerate(methods, start=1):
                served.servicer.closed.clear()
                call = method(message)
                while served.value("jang_open_calls") == 0:
                    await asyncio.sleep(0.01)
                call.cancel()
                await asyncio.wait_for(served.servicer.closed.wait(), 2)
                assert (await served.line(number))["code"] == "CANCELLED"
            assert served.value("jang_open_calls") == 0

    run(test)


def test_a_client_that_does_not_read_and_goes_away_ends_the_work_at_once(run: Run) -> None:
    async def test() -> None:
        async with service() as served:
            call = served.stub.GenerateStream(stream_request("endless"))
            await call.read()
            # Until the windows of the connection are full and the server waits in a write.
            await asyncio.sleep(0.2)
            assert not served.servicer.closed.is_set()
            call.cancel()
            await asyncio.wait_for(served.servicer.closed.wait(), 2)
            assert (await served.line())["code"] == "CANCELLED"

    run(test)


def test_a_client_that_takes_nothing_for_too_long_loses_its_call_and_is_told_when_it_reads(
    run: Run,
) -> None:
    async def test() -> None:
        async with service(stall_seconds=0.3) as served:
            call = served.stub.GenerateStream(stream_request("endless"))
            await asyncio.wait_for(served.servicer.closed.wait(), 2)
            line = await served.line()
            assert (line["code"], line["reason"]) == ("RESOURCE_EXHAUSTED", "SLOW_READER")
            assert served.value("jang_open_calls") == 0
            error, details = await failure(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details["ErrorInfo"].reason == "SLOW_READER"
            # One that reads slower than the limit, but reads, goes on.
            served.servicer.closed.clear()
            small = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
            async with grpc.aio.insecure_channel(served.address, small) as channel:
                stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
                slow = stub.GenerateStream(stream_request("endless"))
                for _ in range(8):
                    assert (await slow.read()).delta.text
                    await asyncio.sleep(0.1)
                assert not served.servicer.closed.is_set()

    run(test)


def test_a_deadline_ends_the_work_and_is_counted_as_one(run: Run) -> None:
    async def test() -> None:
        async with service(wait=wait_forever) as served:
            error, _ = await failure(served.stub.Generate(request("wait"), timeout=0.3))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(served.servicer.closed.wait(), 2)
            line = await served.line()
            assert line["code"] == "DEADLINE_EXCEEDED"
            assert 0.2 < line["seconds"] < 2
            count = served.value("jang_calls_total", method="Generate", code="DEADLINE_EXCEEDED")
            assert count == 1

    run(test)


def test_the_log_has_one_line_for_a_call_with_its_numbers_and_none_of_its_text(run: Run) -> None:
    async def fill_in() -> None:
        call = current_call()
        call.prompt_tokens, call.cached_prompt_tokens, call.completion_tokens = 7, 4, 3
        call.finish_reason = "EOS"
        call.queue_seconds, call.prefill_seconds, call.decode_seconds = 0.25, 0.5, 0.125
        call.note_tokens(1)
        call.note_tokens(2)

    async def test() -> None:
        wrong = errors.InvalidRequestError("prompt.text", repr(SECRET), "something else")
        scripts = {SECRET: fill_in, SECRET + "!": fail_with(wrong)}
        async with service(**scripts) as served:
            await served.stub.Generate(request(SECRET))
            await failure(served.stub.Generate(request(SECRET + "!")))
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


def test_the_log_has_the_prompt_where_the_servicer_was_told_to_give_it(run: Run) -> None:
    async def tell() -> None:
        current_call().prompt_text = SECRET

    async def test() -> None:
        async with service(told=tell) as served:
            await served.stub.Generate(request("told"))
            assert (await served.line())["prompt"] == SECRET

    run(test)


def test_calls_at_once_do_not_see_each_other(run: Run) -> None:
    async def test() -> None:
        async with service(pause=lambda: asyncio.sleep(0.05)) as served:
            names = [f"call-{number}" for number in range(50)]
            answers = await asyncio.gather(
                *(
                    served.stub.Generate(request("pause"), metadata=(("x-request-id", name),))
                    for name in names
                )
            )
            assert [answer.text for answer in answers] == names
            assert served.value("jang_open_calls") == 0

    run(test)


def test_every_watcher_hears_of_every_change_though_others_come_and_go(run: Run) -> None:
    async def test() -> None:
        async with service() as served:
            stub = health_pb2_grpc.HealthStub(served.channel)
            asked = health_pb2.HealthCheckRequest(service=RUNTIME_SERVICE)
            gone, stays, unknown = (
                stub.Watch(asked),
                stub.Watch(asked),
                stub.Watch(health_pb2.HealthCheckRequest(service="nothing")),
            )
            response = health_pb2.HealthCheckResponse
            assert (await gone.read()).status == response.NOT_SERVING
            assert (await stays.read()).status == response.NOT_SERVING
            assert (await unknown.read()).status == response.SERVICE_UNKNOWN
            gone.cancel()
            await asyncio.sleep(0.1)
            served.health.set(True)
            assert (await stays.read()).status == response.SERVING
            for name in ("", RUNTIME_SERVICE):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == response.SERVING
            error, _ = await failure(stub.Check(health_pb2.HealthCheckRequest(service="nothing")))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            served.health.end()
            assert (await stays.read()).status == response.NOT_SERVING
            for watcher in (stays, unknown):
                assert await watcher.read() == grpc.aio.EOF
                assert await watcher.code() is grpc.StatusCode.OK

    run(test)


def test_a_watcher_too_many_is_refused_until_another_one_goes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._service.standards._MOST_WATCHERS", 2)

    async def test() -> None:
        async with service() as served:
            stub = health_pb2_grpc.HealthStub(served.channel)
            asked = health_pb2.HealthCheckRequest()
            watchers = [stub.Watch(asked) for _ in range(2)]
            for watcher in watchers:
                assert await watcher.read()
            error, _ = await failure(stub.Watch(asked))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "watchers: found 2, expected fewer than 2" in error.details()
            assert await stub.Check(asked)
            watchers[0].cancel()
            while True:
                another = stub.Watch(asked)
                if await another.read():
                    break
                await asyncio.sleep(0.01)

    run(test)


def test_details_can_be_read_with_grpc_status(run: Run) -> None:
    async def test() -> None:
        async with service(bad=fail_with(errors.QueueFullError(2, 0.5))) as served:
            call = served.stub.Generate(request("bad"))
            await failure(call)
            status = await rpc_status.aio.from_call(call)
            assert [one.type_url.rpartition(".")[2] for one in status.details] == [
                "ErrorInfo",
                "RetryInfo",
            ]

    run(test)
