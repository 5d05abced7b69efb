"""A server's life: it loads, serves, drains and ends; its engine dies; signals come."""

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import (
    Client,
    Engine,
    EngineOptions,
    EngineStoppedError,
    ModelError,
    RetryPolicy,
    Server,
    ServerError,
    ServiceOptions,
    serve,
)
from jang_runtime._scheduler import Scheduler
from jang_runtime.cli import app

Serving = Callable[..., AbstractContextManager[Server]]
ENDLESS = pb.Stopping(max_tokens=500, ignore_eos=True)
ONCE = RetryPolicy(tries=1)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes a while, as with large models."""
    step = Scheduler.step

    def slow(self: Scheduler, outside: Any) -> None:
        time.sleep(0.005)
        step(self, outside)

    monkeypatch.setattr(Scheduler, "step", slow)


def run(server: Server, coroutine: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, server.loop)  # type: ignore[attr-defined]


def health_of(channel: grpc.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest()).status


def test_draining_lets_requests_end_and_nobody_in(
    engine: Engine, serving: Serving, slowly: None
) -> None:
    with (
        serving(engine) as server,
        Client(server.address, retries=ONCE) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert health_of(channel) == SERVING
        stream = client.stream("hello", stopping=ENDLESS)
        next(stream)
        drained = run(server, server.drain(60))
        time.sleep(0.1)
        assert health_of(channel) == NOT_SERVING
        with pytest.raises(ServerError) as caught:
            client.generate("x")
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "DRAINING")
        assert caught.value.retry_after is None
        assert not drained.done()
        assert list(stream)[-1].finished.usage.completion_tokens == 500
        drained.result(10)


def test_what_is_left_when_the_drain_time_is_over_is_ended(
    engine: Engine, serving: Serving, slowly: None
) -> None:
    with serving(engine) as server, Client(server.address) as client:
        stream = client.stream("hello", stopping=ENDLESS)
        next(stream)
        run(server, server.drain(0.1)).result(10)
        with pytest.raises(ServerError, match="drain time is over") as caught:
            list(stream)
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "DRAINING")
        assert engine.statistics().active == 0


def test_watchers_of_health_see_loading_serving_and_the_engines_death(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole life in one process: `serve` as the command runs it."""
    monkeypatch.setattr("jang_runtime._service.lifecycle._AFTERLIFE_SECONDS", 0.5)
    may_load, address, seen = threading.Event(), f"unix:{tmp_path / 'jang.sock'}", []
    engines: list[Engine] = []

    class SlowEngine(Engine):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            may_load.wait(20)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("jang_runtime._service.lifecycle.Engine", SlowEngine)
    step = Scheduler.step

    def mortal(self: Scheduler, outside: Any) -> None:
        if any(len(ticket.request.prompt.ids) == 13 for ticket in self._open):  # type: ignore[union-attr]
            raise KeyboardInterrupt("something no request is to blame for")
        time.sleep(0.002)
        step(self, outside)

    monkeypatch.setattr(Scheduler, "step", mortal)

    def live(ends: list[BaseException]) -> None:
        try:
            asyncio.run(
                serve(
                    tiny_model,
                    ServiceOptions(listen=address),
                    EngineOptions(),
                    lambda _, engine: engines.append(engine),
                )
            )
        except EngineStoppedError as error:
            ends.append(error)

    monkeypatch.setattr("jang_runtime._service.lifecycle._handle_signals", lambda *_: None)
    ends: list[BaseException] = []
    life = threading.Thread(target=live, args=(ends,))
    life.start()
    with grpc.insecure_channel(address) as channel, Client(address, retries=ONCE) as client:
        grpc.channel_ready_future(channel).result(10)
        stub = runtime_pb2_grpc.RuntimeServiceStub(channel)

        def watch() -> None:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            seen.extend(answer.status for answer in call)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Generate(pb.GenerateRequest(prompt=pb.Prompt(text="x")))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert "loading" in caught.value.details()  # type: ignore[attr-defined]
        with pytest.raises(ServerError) as loading:
            client.generate("x")
        assert (loading.value.reason, loading.value.retry_after) == ("LOADING", 2.0)
        may_load.set()
        client.wait_until_ready(20)
        streams = [client.stream("hello", stopping=ENDLESS) for _ in range(3)]
        for stream in streams:
            next(stream)
        with pytest.raises(ServerError) as killer:
            client.generate("x" * 13)
        assert (killer.value.code, killer.value.reason) == ("UNAVAILABLE", "ENGINE_STOPPED")
        for stream in streams:
            with pytest.raises(ServerError) as ended:
                list(stream)
            assert (ended.value.code, ended.value.reason) == ("UNAVAILABLE", "ENGINE_STOPPED")
        assert health_of(channel) == NOT_SERVING
        life.join(20)
        watcher.join(20)
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
    assert len(ends) == 1


def test_reflection_describes_the_service(engine: Engine, serving: Serving) -> None:
    with serving(engine) as server, grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(stub.ServerReflectionInfo(iter([asked])))
        names = {service.name for service in answer.list_services_response.service}
        assert {"jang.runtime.v1.RuntimeService", "grpc.health.v1.Health"} <= names


@contextmanager
def process(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(model)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("listening on 127.0.0.1:"), server.communicate()
            assert "JANG_4M: llama, JANG_4M" in line
            assert "MB of memory" in line
            yield server, line.split()[2]
        finally:
            server.kill()


def test_sigterm_drains_a_process_and_a_second_one_ends_it_at_once(tiny_model: Path) -> None:
    endless = pb.Stopping(max_tokens=500, ignore_eos=True)
    # A choice from all tokens takes long enough for signals to come in the middle.
    slow = pb.Sampling(temperature=1, top_p=0.99)
    with process(tiny_model) as (server, address), Client(address) as client:
        stream = client.stream("hello", stopping=endless, sampling=slow)
        next(stream)
        server.send_signal(signal.SIGTERM)
        assert list(stream)[-1].finished.usage.completion_tokens == 500
        _, log = server.communicate(timeout=20)
        assert server.returncode == 0
        assert "draining" in log
        assert "Traceback" not in log
    with process(tiny_model) as (server, address), Client(address) as client:
        streams = [client.stream("hello", stopping=endless, sampling=slow) for _ in range(16)]
        for stream in streams:
            next(stream)
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        for stream in streams:
            with pytest.raises(ServerError, match="the server ends at once") as caught:
                list(stream)
            assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "DRAINING")
        _, log = server.communicate(timeout=20)
        assert time.monotonic() - begun < 5
        assert server.returncode == 0, log
        assert "Traceback" not in log
        assert log.count("reason=DRAINING") == len(streams)
        assert "code=CANCELLED" not in log


def test_a_process_with_certificates_tokens_and_metrics_serves_those_who_have_both(
    tiny_model: Path, tmp_path: Path, free_port: int
) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("localhost", "127.0.0.1")
    pair.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in pair.cert_chain_pems:
        blob.write_to_path(tmp_path / "cert.pem", append=True)
    tokens, token = tmp_path / "tokens", "a-token-that-is-long-enough"
    tokens.write_text(f"anna {token}\n")
    tokens.chmod(0o600)
    options = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    metrics = f"127.0.0.1:{free_port}"
    options += ["--auth-tokens", str(tokens), "--metrics", metrics]
    options += ["--log-format", "json", "--max-tokens", "20", "--threads", "1"]
    roots = authority.cert_pem.bytes()
    with process(tiny_model, *options) as (server, address):
        with Client(address, root_certificates=roots, token=token) as client:
            assert client.generate("a secret prompt").finished.usage.completion_tokens == 20
        with Client(address, root_certificates=roots, retries=ONCE) as stranger:
            with pytest.raises(ServerError) as caught:
                stranger.generate("x")
            assert (caught.value.code, caught.value.reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")
        with Client(address, retries=ONCE) as plain, pytest.raises(ServerError) as caught:
            plain.generate("x")
        assert caught.value.code == "UNAVAILABLE"
        scrape = urllib.request.Request(
            f"https://{metrics}/metrics", headers={"Authorization": f"Bearer {token}"}
        )
        trusting = ssl.create_default_context(cadata=roots.decode())
        with urllib.request.urlopen(scrape, context=trusting) as page:
            numbers = page.read().decode()
        assert 'jang_calls_total{code="OK",method="Generate"} 1.0' in numbers
        assert 'jang_rejected_calls_total{reason="TOKEN_MISSING"} 1.0' in numbers
        assert "jang_generated_tokens_total 22.0" in numbers
        server.terminate()
        _, log = server.communicate(timeout=20)
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    calls = [line for line in lines if line["event"] == "call"]
    assert [(call["method"], call["code"]) for call in calls] == [
        ("Generate", "OK"),
        ("Generate", "UNAUTHENTICATED"),
    ]
    assert calls[0]["caller"] == "anna"
    assert calls[0]["completion_tokens"] == 20
    assert token not in log
    assert "secret prompt" not in log


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "0.0.0.0:0"], "--insecure"),
        (["--metrics", "0.0.0.0:0"], "--insecure"),
        (["--tls-cert", "nowhere.pem"], "--tls-key: found nothing"),
        (["--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"], "nowhere.pem"),
        (["--auth-tokens", "nowhere"], "nowhere"),
        (["--max-queue", "0"], "max_queued: found 0"),
        (["--max-prompt-tokens", "0"], "max_prompt_tokens: found 0"),
        (["--drain-seconds", "inf"], "drain_seconds: found inf"),
        (["--listen", "127.0.0.1:99999"], "expected HOST:PORT"),
    ],
)
def test_options_that_cannot_be_end_with_one_line_before_the_model_is_loaded(
    options: list[str], words: str, tmp_path: Path
) -> None:
    # No model: it is not looked at.
    result = CliRunner().invoke(app, ["serve", str(tmp_path), *options])
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert words in errors[0]


def test_a_signal_while_the_model_is_loaded_ends_the_process(
    tiny_model: Path, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path / 'jang.sock'}"
    # The model is loaded within the sleep.
    program = (
        "import sys, time, jang_runtime._service.lifecycle as lifecycle; "
        "lifecycle.Engine = lambda *a, **k: time.sleep(60); "
        "from jang_runtime.cli import app; "
        f"app(['serve', {str(tiny_model)!r}, '--listen', {address!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as server:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(30)
        server.terminate()
        assert server.wait(10) == 0


def test_a_model_that_cannot_be_loaded_ends_the_process_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "jang_runtime.cli", "serve", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    with pytest.raises(ModelError):
        Engine(tmp_path)
