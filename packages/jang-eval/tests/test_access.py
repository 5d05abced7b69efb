"""Servers that want TLS, the client's own certificate and a token, or that are no HOST:PORT."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner, Result

from jang_eval._access import Access, read_access
from jang_eval._errors import OptionError, TargetError
from jang_eval._target import Target
from jang_eval.cli import app

TOKEN = "a-token-nobody-may-see"
TEXT = "Call me Ishmael. Some years ago, never mind how long precisely, I had little money. "


@contextmanager
def serving_process(model: Path, *options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(model), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[2]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what server and client need, and a text."""
    found = tmp_path_factory.mktemp("files")
    authority, clients = trustme.CA(), trustme.CA()
    for name, pair in (
        ("server", authority.issue_cert("127.0.0.1", "localhost")),
        ("client", clients.issue_cert("tester@example.org")),
    ):
        pair.cert_chain_pems[0].write_to_path(found / f"{name}.pem")
        pair.private_key_pem.write_to_path(found / f"{name}.key")
    authority.cert_pem.write_to_path(found / "ca.pem")
    clients.cert_pem.write_to_path(found / "clients.pem")
    (found / "tokens").write_text(f"team-one {TOKEN}\n")
    (found / "tokens").chmod(0o600)
    (found / "token").write_text(f"{TOKEN}\n")
    (found / "text.txt").write_text(TEXT * 2)
    return found


@pytest.fixture(scope="module")
def closed(tiny_model: Path, files: Path) -> Iterator[str]:
    """A server that lets in only who has a certificate and a token."""
    options = ["--tls-cert", f"{files}/server.pem", "--tls-key", f"{files}/server.key"]
    options += ["--tls-client-ca", f"{files}/clients.pem", "--auth-tokens", f"{files}/tokens"]
    with serving_process(tiny_model, "--listen", "127.0.0.1:0", *options) as address:
        yield address


def access_options(files: Path, prefix: str = "--") -> list[str]:
    named = {"tls-ca": "ca.pem", "tls-cert": "client.pem", "tls-key": "client.key"}
    return [
        word
        for name, file in (named | {"token-file": "token"}).items()
        for word in (f"{prefix}{name}", f"{files}/{file}")
    ]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


@pytest.mark.parametrize("command", ["perplexity", "kl", "logit-mse", "reference", "speed", "qa"])
def test_a_server_with_tls_certificates_and_tokens_is_judged(
    closed: str, files: Path, tmp_path: Path, command: str
) -> None:
    output = tmp_path / "result"
    data = [] if command in ("speed", "qa") else ["--data", f"{files}/text.txt"]
    sizes = {
        "perplexity": ["--window", "32"],
        "kl": ["--window", "32"],
        "reference": ["--window", "32"],
        "speed": ["--prompt-tokens", "4", "--decode-tokens", "12", "--rounds", "1"],
        "qa": ["--max-tokens", "1"],
    }
    reference = []
    if command in ("kl", "logit-mse"):
        reference = ["--reference", closed, *access_options(files, "--reference-")]
    words = [command, "--target", closed, *data, *sizes.get(command, []), *reference]
    result = run(*words, *access_options(files), "-o", str(output))
    assert result.exit_code == 0, result.stderr
    assert TOKEN not in result.output
    assert TOKEN.encode() not in output.read_bytes()


def test_each_thing_that_is_missing_is_one_line(closed: str, files: Path) -> None:
    whole = ["perplexity", "--target", closed, "--data", f"{files}/text.txt", "--timeout", "2"]
    whole += access_options(files)
    for missing, complaint in {
        "--token-file": "found UNAUTHENTICATED",
        # Connecting is tried again until the time is over.
        "--tls-ca": "found no answer after 2 s",
        "--tls-cert": "tls_cert, tls_key: found one of them, expected both or none",
    }.items():
        place = whole.index(missing)
        result = run(*whole[:place], *whole[place + 2 :])
        assert result.exit_code == 2
        assert complaint in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
        assert TOKEN not in result.stderr


def test_a_socket_of_the_file_system_is_an_address_and_takes_a_token_without_tls(
    tiny_model: Path, files: Path, tmp_path: Path
) -> None:
    wanted = f"unix:{tmp_path}/socket"
    tokens = ["--auth-tokens", f"{files}/tokens"]
    with serving_process(tiny_model, "--listen", wanted, *tokens) as address:
        assert address == wanted
        words = ["--data", f"{files}/text.txt", "--window", "32", "--reference", address]
        words += ["--reference-token-file", f"{files}/token"]
        result = run("kl", "--target", address, "--token-file", f"{files}/token", *words)
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("address", ["10.0.0.1:1", "models.example.org:443", "[2001:db8::1]:1"])
def test_a_token_goes_to_no_other_machine_without_tls(files: Path, address: str) -> None:
    words = ["--target", address, "--token-file", f"{files}/token"]
    result = run("qa", *words)
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: server {address}: found a token without TLS, expected TLS or an address of this "
        "machine\n",
    )
    data = ["--data", f"{files}/text.txt", "--target", "localhost:1", "--reference", address]
    result = run("logit-mse", *data, "--reference-token-file", f"{files}/token")
    assert result.exit_code == 2
    assert "found a token without TLS" in result.stderr


@pytest.mark.parametrize(
    "address", ["localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "unix:socket"]
)
def test_to_this_machine_a_token_goes_as_it_is(address: str) -> None:
    Target(address, timeout=1, access=Access(token=TOKEN)).close()


@pytest.mark.parametrize("address", ["unix:", "unix", "127.0.0.1", "http://localhost:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(TargetError, match=r"expected HOST:PORT .*, or unix:PATH"):
        Target(address, timeout=1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "found 0 words, expected a token alone"),
        (b"team-one a-token-of-the-servers-file", "found 2 words, expected a token alone"),
        ("größer".encode(), "found other characters in it, expected ASCII"),
        (b"bell\x07", "found other characters in it, expected ASCII"),
        (None, "No such file or directory, expected a file"),
    ],
)
def test_a_file_without_a_token_is_refused_and_not_shown(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OptionError) as caught:
        read_access(False, None, None, None, path, prefix="reference_")
    assert str(caught.value) == f"reference_token_file: {path}: {complaint}"


def test_what_is_no_pem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"no certificate")
    with pytest.raises(OptionError, match=r"tls_ca: .*ca\.pem: found no PEM data, expected some"):
        read_access(True, path, None, None, None)


def test_secrets_are_not_shown() -> None:
    assert TOKEN not in repr(Access(token=TOKEN, key=TOKEN.encode()))
