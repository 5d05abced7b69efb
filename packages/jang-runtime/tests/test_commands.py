"""The commands of jang-runtime, as users type them."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from jang_runtime import Client
from jang_runtime.cli import app


def test_generate_prints_the_answer_and_nothing_else_on_stdout(tiny_model: Path) -> None:
    arguments = ["generate", str(tiny_model), "hi", "--max-tokens", "6"]
    plain = CliRunner().invoke(app, arguments)
    assert plain.exit_code == 0, plain.output
    document = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert plain.stdout == document["text"] + "\n"
    assert document["completion_tokens"] == 6
    assert document["finish_reason"] == "MAX_TOKENS"


def test_generate_chooses_and_stops_as_it_is_told(tiny_model: Path) -> None:
    arguments = ["generate", str(tiny_model), "hi", "--max-tokens", "9", "--json"]

    def answer(*more: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    plain = answer("--logprobs", "2")
    ids = [entry["token_id"] for entry in plain["logprobs"]]
    assert ids == [entry["top"][0]["token_id"] for entry in plain["logprobs"]]
    assert [entry["rank"] for entry in plain["logprobs"]] == [1] * 9
    assert [len(entry["top"]) for entry in plain["logprobs"]] == [2] * 9
    assert answer("--temperature", "2", "--top-k", "1")["text"] == plain["text"]
    assert answer("--temperature", "2", "--min-p", "1")["text"] == plain["text"]
    for penalty in ("--repetition-penalty", "--presence-penalty", "--frequency-penalty"):
        assert answer(penalty, "50")["text"] != plain["text"]
    stopped = answer("--stop", "nowhere", "--stop", plain["text"][3:5])
    assert stopped["text"] == plain["text"][: plain["text"].index(plain["text"][3:5])]
    assert stopped["finish_reason"] == "STOP_STRING"


def test_chat_answers_line_by_line_and_remembers(tiny_model: Path) -> None:
    arguments = ["chat", str(tiny_model), "--max-tokens", "3", "--temperature", "0"]
    one = CliRunner().invoke(app, arguments, input="hi\n")
    two = CliRunner().invoke(app, arguments, input="hi\n\nhi\n")
    assert (one.exit_code, two.exit_code) == (0, 0), two.output
    assert two.stdout.startswith(one.stdout)
    # The same words again, after a turn that the model has seen.
    assert len(two.stdout.splitlines()) > len(one.stdout.splitlines())


def test_user_mistakes_end_with_one_line_and_status_2(tiny_model: Path, tmp_path: Path) -> None:
    for arguments in (
        ["generate", str(tmp_path / "nothing"), "hi"],
        ["generate", str(tiny_model), "hi", "--temperature", "101"],
        ["generate", str(tiny_model), "hi", "--logprobs", "1"],
        ["generate", str(tiny_model), "hi", "--kv-bits", "4"],
        ["serve", str(tiny_model), "--max-active", "0"],
        ["serve", str(tiny_model), "--listen", "0.0.0.0:0"],
        ["serve", str(tiny_model), "--listen", "nowhere"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, arguments
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "found" in errors[0]
        assert "expected" in errors[0]
        assert "Traceback" not in result.stderr


def test_serve_announces_its_address_answers_and_ends_on_sigterm(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(tiny_model)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:"), server.communicate()
        with Client(line.split()[2]) as client:
            assert client.generate([("user", "hi")]).finished.usage.completion_tokens > 0
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
