"""`jang-runtime serve` as others run it: TLS, tokens, metrics and JSON logs in one process."""

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime import Client, ServerError

OLD, NEW, SECRET = "an-old-token-of-mine", "a-new-token-of-mine", "words nobody may see"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "in time"
        time.sleep(0.02)


def write_tokens(path: Path, token: str) -> None:
    path.touch(0o600)
    path.write_text(f"team-one {token}\n")


def test_a_server_for_others_asks_for_tokens_counts_logs_and_tells_nothing(
    tiny_model: Path, tmp_path: Path, free_port: int
) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    certificate, key, tokens = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "tokens"
    pair.cert_chain_pems[0].write_to_path(certificate)
    pair.private_key_pem.write_to_path(key)
    write_tokens(tokens, OLD)
    metrics, log = free_port, tmp_path / "log"
    command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(tiny_model)]
    command += ["--listen", "127.0.0.1:0", "--tls-cert", str(certificate), "--tls-key", str(key)]
    command += ["--auth-tokens", str(tokens), "--metrics", f"127.0.0.1:{metrics}"]
    command += ["--log-format", "json", "--max-tokens", "8"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # Or gRPC's core writes about handshakes in between.
            env=os.environ | {"GRPC_VERBOSITY": "ERROR"},
        ) as server,
    ):
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("listening on 127.0.0.1:"), log.read_text()
            address, root = line.split()[2], authority.cert_pem.bytes()
            call_and_reload(server, address, root, tokens, log)
            values = scrape(metrics, root)
            assert values["jang_calls_total", "OK", "Generate"] == 2
            assert values["jang_rejected_calls_total", "TOKEN_UNKNOWN"] >= 1
            assert values["jang_generated_tokens_total",] >= 16
            assert values["jang_time_to_first_token_seconds_count",] == 2
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
        finally:
            server.kill()
    text = log.read_text()
    assert not any(secret in text for secret in (OLD, NEW, SECRET, "Traceback"))
    events = [json.loads(one) for one in text.splitlines()]
    calls = [one for one in events if one["event"] == "call"]
    assert [one["caller"] for one in calls if one["code"] == "OK"] == ["team-one"] * 2
    assert {one["code"] for one in calls} == {"OK", "UNAUTHENTICATED", "INVALID_ARGUMENT"}
    assert {one["event"] for one in events} >= {"tokens_loaded", "draining"}


def call_and_reload(
    server: "subprocess.Popen[str]", address: str, root: bytes, tokens: Path, log: Path
) -> None:
    """Calls with two tokens, one of which comes while the server runs, and with mistakes."""
    stopping = pb.Stopping(max_tokens=8, ignore_eos=True)
    with Client(address, root_certificates=root, token=OLD) as old:
        old.wait_until_ready()
        assert old.generate(SECRET, stopping=stopping).finished.usage.completion_tokens == 8
        with pytest.raises(ServerError) as caught:
            old.generate(SECRET, stopping=pb.Stopping(max_tokens=9))
        assert (caught.value.code, caught.value.field) == (
            "INVALID_ARGUMENT",
            "stopping.max_tokens",
        )
        write_tokens(tokens, NEW)
        server.send_signal(signal.SIGHUP)
        until(lambda: "tokens_loaded" in log.read_text())
        with pytest.raises(ServerError) as caught:
            old.generate(SECRET, stopping=stopping)
        assert (caught.value.code, caught.value.reason) == ("UNAUTHENTICATED", "TOKEN_UNKNOWN")
    with Client(address, root_certificates=root, token=NEW) as new:
        assert new.generate(SECRET, stopping=stopping).text
    # What scanners send: no TLS, and TLS that trusts somebody else.
    for credentials in (None, grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())):
        channel = (
            grpc.insecure_channel(address)
            if credentials is None
            else grpc.secure_channel(address, credentials)
        )
        with channel, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=0.5)


def scrape(port: int, root: bytes) -> dict[tuple[str, ...], float]:
    context = ssl.create_default_context(cadata=root.decode())
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {NEW}"})
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_mistake_ends_it_with_one_line_before_the_model_is_read(tmp_path: Path) -> None:
    # An empty directory is no model either: that would be the complaint if it were read first.
    command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(tmp_path)]
    command += ["--listen", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --listen: found '0.0.0.0:0', which others can reach")
    assert done.stderr.count("\n") == 1
