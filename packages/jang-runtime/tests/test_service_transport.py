"""Where a server listens: addresses, certificates, and what it refuses; the metrics page."""

import asyncio
import contextlib
import http.client
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from prometheus_client.parser import text_string_to_metric_families

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import ListenError
from jang_runtime._service.access import TokenFile
from jang_runtime._service.calls import CallInterceptor, current_call
from jang_runtime._service.metrics import Metrics, ServiceLoad
from jang_runtime._service.scraping import metrics_served
from jang_runtime._service.transport import (
    Address,
    TlsFiles,
    bind,
    parse_address,
    refuse_open,
    tls_files,
)
from jang_runtime._statistics import EngineStatistics


class WhoCalls(runtime_pb2_grpc.RuntimeServiceServicer):
    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        return pb.GenerateResponse(text=current_call().caller)


@asynccontextmanager
async def serving(tls: TlsFiles | None, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    logger = logging.Logger("edge")
    server = grpc.aio.server(
        interceptors=[CallInterceptor(None, Metrics(), logger)],
        options=[("grpc.so_reuseport", 0)],
    )
    runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(WhoCalls(), server)
    bound = bind(server, parse_address("--listen", address), tls)
    await server.start()
    try:
        yield str(bound)
    finally:
        await server.stop(None)


async def call(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """Who the server thinks calls; each call has a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.aio.insecure_channel(address, options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options)
    )
    async with channel:
        stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
        return (await stub.Generate(pb.GenerateRequest(), timeout=10)).text


async def code_of(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    try:
        await call(address, credentials)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


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


def write_pair(directory: Path, pair: trustme.LeafCert) -> tuple[Path, Path]:
    directory.mkdir(exist_ok=True)
    certificate, key = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(one.bytes() for one in pair.cert_chain_pems))
    key.write_bytes(pair.private_key_pem.bytes())
    return certificate, key


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pair(tmp_path: Path, authority: trustme.CA) -> tuple[Path, Path]:
    return write_pair(tmp_path / "server", authority.issue_cert("127.0.0.1", "localhost"))


@pytest.fixture
def client_ca(tmp_path: Path, clients: trustme.CA) -> Path:
    path = tmp_path / "clients.pem"
    path.write_bytes("# Größe: Text around the certificates\n".encode() + clients.cert_pem.bytes())
    return path


def channel_credentials(
    authority: trustme.CA, me: trustme.LeafCert | None = None
) -> grpc.ChannelCredentials:
    if me is None:
        return grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    return grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), me.private_key_pem.bytes(), me.cert_chain_pems[0].bytes()
    )


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051, True),
        ("127.8.9.1:0", "127.8.9.1", 0, True),
        ("localhost:1", "localhost", 1, True),
        ("[::1]:50051", "::1", 50051, True),
        ("unix:/run/jang.sock", "unix:/run/jang.sock", 0, True),
        ("0.0.0.0:50051", "0.0.0.0", 50051, False),
        ("[::]:50051", "::", 50051, False),
        ("10.0.0.7:50051", "10.0.0.7", 50051, False),
        ("localhost.example.org:1", "localhost.example.org", 1, False),
    ],
)
def test_an_address_is_read_and_written_and_known_as_loopback(
    text: str, host: str, port: int, is_loopback: bool
) -> None:
    address = parse_address("--listen", text)
    assert address == Address(host, port)
    assert str(address) == text
    assert address.is_loopback is is_loopback


@pytest.mark.parametrize(
    "text",
    ["", ":50051", "50051", "localhost", "localhost:", "a b:1", "::1:50051", "x:65536", "x:-1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ListenError, match="--metrics: found .*, expected HOST:PORT"):
        parse_address("--metrics", text)


def test_others_are_answered_only_with_tls_and_authentication_or_on_demand(
    pair: tuple[Path, Path], client_ca: Path
) -> None:
    plain, mutual = TlsFiles(*pair), TlsFiles(*pair, client_ca)
    everywhere, here = Address("0.0.0.0", 1), Address("127.0.0.1", 1)
    refuse_open("--listen", here, None, has_tokens=False, insecure=False)
    refuse_open("--listen", everywhere, plain, has_tokens=True, insecure=False)
    refuse_open("--listen", everywhere, mutual, has_tokens=False, insecure=False)
    refuse_open("--listen", everywhere, None, has_tokens=False, insecure=True)
    for tls, has_tokens, lacks in (
        (None, False, "TLS (--tls-cert and --tls-key)"),
        (None, True, "TLS (--tls-cert and --tls-key)"),
        (plain, False, "authentication (--auth-tokens or --tls-client-ca)"),
    ):
        with pytest.raises(ListenError) as caught:
            refuse_open("--listen", everywhere, tls, has_tokens, insecure=False)
        assert str(caught.value).startswith("--listen: found '0.0.0.0:1', which others can reach")
        assert lacks in str(caught.value)
        assert "--insecure" in str(caught.value)


def test_with_tls_a_client_gets_in_if_it_trusts_the_certificate_and_never_in_clear(
    run: Run, pair: tuple[Path, Path], authority: trustme.CA, clients: trustme.CA
) -> None:
    async def test() -> None:
        async with serving(tls_files(*pair, None)) as address:
            assert await code_of(address, channel_credentials(authority)) is grpc.StatusCode.OK
            unavailable = grpc.StatusCode.UNAVAILABLE
            assert await code_of(address, channel_credentials(clients)) is unavailable
            assert await code_of(address, None) is unavailable

    run(test)


def test_with_mutual_tls_only_clients_with_a_certificate_get_in_and_bring_their_name(
    run: Run, pair: tuple[Path, Path], client_ca: Path, authority: trustme.CA, clients: trustme.CA
) -> None:
    async def test() -> None:
        async with serving(tls_files(*pair, client_ca)) as address:
            me = clients.issue_cert("team-one.example.org")
            assert await call(address, channel_credentials(authority, me)) == "team-one.example.org"
            stranger = authority.issue_cert("team-one.example.org")
            for refused in (
                channel_credentials(authority),
                channel_credentials(authority, stranger),
            ):
                assert await code_of(address, refused) is grpc.StatusCode.UNAVAILABLE

    run(test)


def test_changed_certificates_hold_for_new_connections_and_bad_ones_change_nothing(
    run: Run,
    tmp_path: Path,
    pair: tuple[Path, Path],
    authority: trustme.CA,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = trustme.CA()

    async def test() -> None:
        async with serving(tls_files(*pair, None)) as address:
            assert await code_of(address, channel_credentials(authority)) is grpc.StatusCode.OK
            new = write_pair(tmp_path / "new", other.issue_cert("127.0.0.1"))
            # For a moment the old certificate stands beside the new key.
            os.replace(new[1], pair[1])
            assert await code_of(address, channel_credentials(authority)) is grpc.StatusCode.OK
            assert caplog.records[-1].message == "certificates_kept"
            os.replace(new[0], pair[0])
            assert await code_of(address, channel_credentials(other)) is grpc.StatusCode.OK
            old = await code_of(address, channel_credentials(authority))
            assert old is grpc.StatusCode.UNAVAILABLE
            pair[0].unlink()
            assert await code_of(address, channel_credentials(other)) is grpc.StatusCode.OK

    run(test)


def encrypted(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a password"),
    )


def test_files_that_are_not_what_they_should_be_are_refused_by_option_and_name(
    tmp_path: Path, pair: tuple[Path, Path], client_ca: Path, authority: trustme.CA
) -> None:
    certificate, key = pair
    garbage, empty, locked = tmp_path / "garbage", tmp_path / "empty", tmp_path / "locked"
    garbage.write_bytes(b"\xff not a PEM file")
    empty.write_bytes(b"")
    locked.write_bytes(encrypted(key))
    nowhere = tmp_path / "nowhere"
    other_key = write_pair(tmp_path / "other", authority.issue_cert("127.0.0.1"))[1]
    cases: list[tuple[tuple[Path | None, Path | None, Path | None], str]] = [
        ((certificate, None, None), "--tls-key: found nothing, expected a file beside --tls-cert"),
        ((None, key, None), "--tls-cert: found nothing, expected a file beside --tls-key"),
        (
            (None, None, client_ca),
            "--tls-cert: found nothing, expected a file beside --tls-client-ca",
        ),
        ((nowhere, key, None), f"--tls-cert: {nowhere}: No such file or directory"),
        ((certificate, nowhere, None), f"--tls-key: {nowhere}: No such file or directory"),
        ((certificate, key, nowhere), f"--tls-client-ca: {nowhere}: No such file or directory"),
        ((garbage, key, None), f"--tls-cert: {garbage}: expected certificates in PEM form"),
        ((empty, key, None), f"--tls-cert: {empty}: expected certificates in PEM form"),
        ((key, key, None), f"--tls-cert: {key}: expected certificates in PEM form"),
        ((certificate, garbage, None), f"--tls-key: {garbage}: expected a private key"),
        ((certificate, certificate, None), f"--tls-key: {certificate}: expected a private key"),
        ((certificate, locked, None), f"--tls-key: {locked}: expected a private key"),
        ((certificate, key, garbage), f"--tls-client-ca: {garbage}: expected certificates"),
        (
            (certificate, other_key, None),
            f"--tls-key: {other_key}: found a key that does not belong to --tls-cert {certificate}",
        ),
    ]
    for files, complaint in cases:
        with pytest.raises(ListenError) as caught:
            tls_files(*files)
        assert str(caught.value).startswith(complaint)
        assert "\n" not in str(caught.value)
    assert tls_files(None, None, None) is None
    assert tls_files(certificate, key, client_ca) == TlsFiles(certificate, key, client_ca)


def test_an_address_that_another_server_has_is_refused(run: Run) -> None:
    async def test() -> None:
        async with serving(None) as address:
            with pytest.raises(ListenError, match=f"--listen: {address} is not to be had"):
                async with serving(None, address):
                    pass

    run(test)


def test_a_socket_in_the_file_system_serves_too(run: Run, tmp_path: Path) -> None:
    async def test() -> None:
        path = f"unix:{tmp_path / 'jang.sock'}"
        async with serving(None, path) as address:
            assert address == path
            assert await code_of(address, None) is grpc.StatusCode.OK

    run(test)


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics()
    metrics.watch(
        lambda: EngineStatistics(
            queued=2, active=3, finished=11, cancelled=4, failed=1, generated_tokens=77
        ),
        lambda: ServiceLoad(5, 3, cache_bytes_reserved=1024, cache_bytes_limit=4096),
    )
    return metrics


def get(
    address: Address, path: str = "/metrics", context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, str]:
    connection = (
        http.client.HTTPConnection(address.host, address.port, timeout=10)
        if context is None
        else http.client.HTTPSConnection(address.host, address.port, timeout=10, context=context)
    )
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_the_metrics_page_has_what_was_counted_and_what_the_engine_says_now(
    metrics: Metrics,
) -> None:
    metrics.call_began()
    metrics.call_ended("Generate", "RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.25, None)
    metrics.first_token(0.5)
    metrics.next_tokens(0.03, 3)
    with metrics_served(metrics, Address("127.0.0.1", 0), None, None) as address:
        status, text = get(address)
        assert get(address, "/other")[0] == 404
        kind = {"Accept": "application/openmetrics-text;version=1.0.0"}
        assert get(address, **kind)[1].endswith("# EOF\n")
    assert status == 200
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["jang_calls_total", "RESOURCE_EXHAUSTED", "Generate"] == 1
    assert values["jang_rejected_calls_total", "QUEUE_FULL"] == 1
    assert values["jang_call_seconds_sum", "Generate"] == 0.25
    assert values["jang_time_to_first_token_seconds_sum",] == 0.5
    assert values["jang_time_between_tokens_seconds_count",] == 3
    assert values["jang_time_between_tokens_seconds_bucket", "0.01"] == 3
    assert values["jang_open_calls",] == 0
    assert values["jang_engine_requests_total", "finished"] == 7
    assert values["jang_engine_requests_total", "cancelled"] == 4
    assert values["jang_generated_tokens_total",] == 77
    assert values["jang_queued_requests",] == 5
    assert values["jang_cache_reserved_bytes",] == 1024
    assert all(name[0].startswith(("jang_", "process_")) for name in values)


def test_the_metrics_page_asks_for_tokens_and_certificates_as_the_service_does(
    tmp_path: Path,
    metrics: Metrics,
    pair: tuple[Path, Path],
    authority: trustme.CA,
    client_ca: Path,
    clients: trustme.CA,
) -> None:
    path = tmp_path / "tokens"
    path.write_text("prometheus a-token-for-scraping\n")
    path.chmod(0o600)
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    known = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    clients.issue_cert("prometheus").configure_cert(known)
    tls = tls_files(*pair, client_ca)
    bearer = {"Authorization": "Bearer a-token-for-scraping"}
    with metrics_served(metrics, Address("127.0.0.1", 0), tls, TokenFile(path)) as address:
        assert get(address, context=known, **bearer)[0] == 200
        assert get(address, context=known)[0] == 401
        assert get(address, context=known, Authorization="Bearer another-token-of-mine")[0] == 401
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(address, context=trusting, **bearer)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            get(address, **bearer)


def test_a_client_that_says_nothing_keeps_nobody_from_the_metrics_page(
    metrics: Metrics, pair: tuple[Path, Path], authority: trustme.CA
) -> None:
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with (
        metrics_served(metrics, Address("127.0.0.1", 0), tls_files(*pair, None), None) as address,
        socket.create_connection((address.host, address.port)),
    ):
        assert get(address, context=trusting)[0] == 200


def test_changed_certificates_hold_for_the_metrics_page_too(
    tmp_path: Path, metrics: Metrics, pair: tuple[Path, Path], authority: trustme.CA
) -> None:
    other = trustme.CA()
    old = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    new = ssl.create_default_context(cadata=other.cert_pem.bytes().decode())
    tls = tls_files(*pair, None)
    with metrics_served(metrics, Address("127.0.0.1", 0), tls, None) as address:
        assert get(address, context=old)[0] == 200
        fresh = write_pair(tmp_path / "new", other.issue_cert("127.0.0.1"))
        # For a moment the old certificate stands beside the new key.
        os.replace(fresh[1], pair[1])
        assert get(address, context=old)[0] == 200
        os.replace(fresh[0], pair[0])
        assert get(address, context=new)[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            get(address, context=old)


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_metrics_page_closes_connections_that_are_too_many_and_answers_when_others_end(
    metrics: Metrics,
    pair: tuple[Path, Path],
    authority: trustme.CA,
    encrypted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jang_runtime._service.scraping._MOST_CONNECTIONS", 3)
    tls = tls_files(*pair, None) if encrypted else None
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context = trusting if encrypted else None
    with metrics_served(metrics, Address("127.0.0.1", 0), tls, None) as address:
        silent = [socket.create_connection((address.host, address.port)) for _ in range(3)]
        with socket.create_connection((address.host, address.port), timeout=10) as refused:
            assert refused.recv(1) == b""
        with pytest.raises((http.client.HTTPException, OSError)):
            get(address, context=context)
        for connection in silent:
            connection.close()
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(http.client.HTTPException, OSError):
                assert get(address, context=context)[0] == 200
                break
            assert time.monotonic() < until


def test_the_metrics_page_refuses_an_address_that_is_not_to_be_had(metrics: Metrics) -> None:
    with metrics_served(metrics, Address("127.0.0.1", 0), None, None) as taken:
        for address, complaint in (
            (taken, f"--metrics: {taken}: Address already in use"),
            (Address("unix:x", 0), "--metrics: found 'unix:x', expected HOST:PORT"),
        ):
            with (
                pytest.raises(ListenError, match=complaint),
                metrics_served(metrics, address, None, None),
            ):
                pass
