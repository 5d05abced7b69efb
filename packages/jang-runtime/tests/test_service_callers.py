"""Who may call: those with a token of the file, and probes."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from runpy import run_path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from jang_runtime._service.access import TokenFile
from jang_runtime._service.standards import RUNTIME_SERVICE

Run = Callable[[Callable[[], Awaitable[None]]], None]
Service = Callable[..., AbstractAsyncContextManager[Any]]

SCRIPTED = run_path(str(Path(__file__).parent / "scripted_service.py"))
run, service = SCRIPTED["run"], SCRIPTED["service"]
TOKEN = "a-token-of-team-one"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# teams\n\nteam-one {TOKEN}\nteam.two  another-token-of-two\n")
    path.chmod(0o600)
    return path


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_only_callers_with_a_token_of_the_file_get_in_and_the_log_has_their_names(
    run: Run, service: Service, token_file: Path
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
                    served.generate("x", metadata=metadata),
                    served.stream("x", metadata=metadata),
                ):
                    error, details = await served.failure(call)
                    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                    assert details["ErrorInfo"].reason == reason
            assert not served.servicer.closed.is_set()
            for token in (TOKEN, "another-token-of-two"):
                await served.generate("x", metadata=bearer(token))
            await served.generate("x", metadata=(("authorization", f"bearer {TOKEN}"),))
            callers = [line.get("caller") for line in served.lines()]
            assert callers[-3:] == ["team-one", "team.two", "team-one"]
            assert set(callers[:-3]) == {None}
            assert "token-of" not in served.log.getvalue()
            assert "no-such-token" not in served.log.getvalue()

    run(test)


def test_probes_need_no_token_and_are_not_logged_while_reflection_needs_one(
    run: Run, service: Service, token_file: Path
) -> None:
    async def test() -> None:
        async with service(TokenFile(token_file)) as served:
            health = health_pb2_grpc.HealthStub(served.channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            _, details = await served.failure(reflection.ServerReflectionInfo(iter([asked])))
            assert details["ErrorInfo"].reason == "TOKEN_MISSING"
            stream = reflection.ServerReflectionInfo(iter([asked]), metadata=bearer(TOKEN))
            [listed] = [answer async for answer in stream]
            names = {one.name for one in listed.list_services_response.service}
            assert {RUNTIME_SERVICE, "grpc.health.v1.Health"} < names
            assert [line["method"] for line in served.lines()] == ["ServerReflectionInfo"] * 2

    run(test)
