"""`jang-eval speed` against a real server."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jang_eval.cli import app

SMALL = ["--prompt-tokens", "64", "--decode-tokens", "24", "--streams", "2", "--rounds", "3"]


def test_a_server_is_measured_and_says_what_it_runs_on(served: str, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    result = CliRunner().invoke(
        app, ["speed", "--target", served, "--json", "-o", str(output), *SMALL]
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document == json.loads(output.read_text())
    found = {metric["name"]: metric for metric in document["metrics"]}
    assert [*found] == [
        *("decode", "decode of 2 streams", "prefill", "time to first token"),
        *("load", "peak memory", "resident memory"),
    ]
    for metric in [*found.values()][:4]:
        assert 0 < metric["interval"]["low"] <= metric["value"] <= metric["interval"]["high"]
    first = found["time to first token"]["value"]
    assert found["prefill"]["value"] * first == pytest.approx(64)
    assert 0 < found["peak memory"]["value"] < found["resident memory"]["value"]
    assert document["settings"]["backend"].startswith(("cpu (", "metal", "cuda"))
    assert [each["id"] for each in document["outcomes"]] == ["warm-up", "1", "2", "3", "server"]
    too_long = CliRunner().invoke(app, ["speed", "--target", served, "--prompt-tokens", "512"])
    assert too_long.exit_code == 2
    assert "found 512 and 64, expected at most 512 and 512 together" in too_long.stderr
