"""docs/service.md says what is so: options, metrics, events, commands and files."""

import ast
import configparser
import http.client
import json
import plistlib
import re
import shlex
import shutil
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main

from jang_runtime._service.access import TokenFile
from jang_runtime._service.calls import Call, _fields
from jang_runtime._service.metrics import Metrics, ServiceLoad
from jang_runtime._service.scraping import metrics_served
from jang_runtime._service.transport import Address, refuse_open, tls_files
from jang_runtime._statistics import EngineStatistics
from jang_runtime.cli import app

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/service.md").read_text()
SERVICE = ROOT / "packages/jang-runtime/src/jang_runtime/_service"


def block(language: str) -> str:
    """The only block of a language on the page."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    lines = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def serve_command() -> Any:
    return typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]


def options_in(arguments: Sequence[str]) -> dict[str, Any]:
    """What `jang-runtime serve` makes of a command line."""
    assert Path(arguments[0]).name == "jang-runtime"
    assert arguments[1] == "serve"
    return serve_command().make_context("serve", list(arguments[2:])).params


def test_the_options_on_the_page_are_those_of_the_command_with_their_defaults() -> None:
    options = {option.opts[0]: option for option in serve_command().params}
    del options["model"]
    on_page = {name.strip("`"): default for name, default, _ in rows("option")}
    assert set(on_page) == set(options)
    for name, option in options.items():
        said = on_page[name].strip("`")
        default = option.default
        if isinstance(option.show_default, str):
            assert said == option.show_default
        elif default is None:
            assert said.startswith("none")
        elif default is False:
            assert said == "off"
        else:
            assert said == f"{default:g}" if isinstance(default, float) else str(default)


def test_the_metrics_on_the_page_are_those_of_the_program() -> None:
    metrics = Metrics()
    metrics.watch(EngineStatistics, lambda: ServiceLoad(0, 0, 0, 0))
    metrics.call_began()
    metrics.call_ended("Generate", "INTERNAL", "GENERATION_FAILED", 1.0, 1.0)
    there = set()
    for family in metrics.registry.collect():
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        if not name.startswith("process_"):
            there.add((name, family.type, frozenset(labels)))
    on_page = {
        (name.strip("`"), kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in rows("metric")
        if kind
    }
    assert on_page == there
    assert set(re.findall(r"\(?(jang_\w+?)(?:_bucket)?\[", PAGE)) <= {name for name, *_ in there}


def test_the_events_on_the_page_are_those_that_the_service_writes() -> None:
    written = {"message"}
    for file in SERVICE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "log_event":
                assert isinstance(node.args[1], ast.Constant)
                written.add(node.args[1].value)
    on_page = {event for names, *_ in rows("event") for event in re.findall("`([^`]+)`", names)}
    assert on_page == written


def test_the_line_of_json_has_fields_of_a_call() -> None:
    call = Call("Generate", "id", "peer", "caller", "", time.monotonic(), Metrics())
    fields = list(_fields(call, 0.1))
    line = [name for name in json.loads(block("json")) if name not in ("time", "level", "event")]
    assert [name for name in fields if name in line] == line


def test_the_tokens_on_the_page_are_a_file_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(block("text"))
    path.chmod(0o600)
    token = path.read_text().split()[-1]
    assert TokenFile(path).caller([f"Bearer {token}"]) == "prometheus"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_make_certificates_with_which_a_server_is_trusted(tmp_path: Path) -> None:
    script = block("sh").replace("rsa:3072", "rsa:2048")
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    tls = tls_files(tmp_path / "server.pem", tmp_path / "server.key", None)
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with metrics_served(Metrics(), Address("127.0.0.1", 0), tls, None) as address:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", address.port, timeout=10, context=trusting
        )
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()


def allowed(options: dict[str, Any]) -> None:
    """Whether the options of an example let the server start."""
    host, _, port = options["listen"].rpartition(":")
    refuse_open(
        "--listen",
        Address(host, int(port)),
        options["tls_cert"] and options["tls_key"],
        options["auth_tokens"] is not None,
        options["insecure"],
    )


def test_the_unit_starts_the_server_and_waits_longer_than_it_drains() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block("ini"))
    service = unit["Service"]
    options = options_in(shlex.split(service["ExecStart"]))
    allowed(options)
    assert int(service["TimeoutStopSec"]) > options["drain_seconds"] + 10
    assert service["RestartPreventExitStatus"] == "2"


def test_the_property_list_starts_the_server_and_waits_longer_than_it_drains() -> None:
    job = plistlib.loads(block("xml").encode())
    options = options_in(job["ProgramArguments"])
    allowed(options)
    assert job["ExitTimeOut"] > options["drain_seconds"] + 10
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert f"system/{job['Label']}" in PAGE
