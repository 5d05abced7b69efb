"""`jang-eval report` with real conversions and servers: interrupted, gone on with, and failing."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from conftest import write_tiny_source
from jang_eval.cli import app

MODELS = ["reference", "JANG_4M"]
TASKS = ["humaneval", "kl", "logit-mse", "mmlu", "perplexity", "qa", "speed"]
SIZES = [
    *("--subset", "1x2", "--shots", "1", "--limit", "1", "--max-tokens", "8", "--window", "64"),
    *("--windows", "4", "--prompt-tokens", "64", "--decode-tokens", "16", "--streams", "2"),
    *("--rounds", "2", "--allow-code-execution", "--weak-sandbox"),
]
PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
QUESTION = """
[[questions]]
id = "colour"
text = "What colour is the sky?"
ideas = [{name = "blue", pattern = 'blue'}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, data, and room for the work."""
    place = tmp_path_factory.mktemp("report")
    write_tiny_source(place / "source", max_position_embeddings=2048)
    lines = (f"Line {n} of a text that tells of {n * n} things.\n" for n in range(12))
    (place / "text.txt").write_text("".join(lines))
    (place / "questions.toml").write_text(QUESTION)
    (place / "HumanEval.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    for split in ("dev", "test"):
        (place / "mmlu" / split).mkdir(parents=True)
        rows = "Is ice cold?,yes,no,maybe,never,A\nWho sings?,a bird,a stone,a fork,a lamp,A\n"
        (place / "mmlu" / split / f"miscellaneous_{split}.csv").write_text(rows)
    return place


def arguments(place: Path, *options: str) -> list[str]:
    data = ["--mmlu", str(place / "mmlu"), "--text", str(place / "text.txt")]
    data += ["--questions", str(place / "questions.toml")]
    data += ["--humaneval", str(place / "HumanEval.jsonl"), "--work", str(place / "work")]
    return ["report", str(place / "source"), "--profiles", "4M", *data, *SIZES, *options]


def report(place: Path, *options: str) -> Result:
    return CliRunner().invoke(app, arguments(place, *options))


def written(place: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (place / "work" / "results").glob("*.json")}


def values(place: Path, name: str) -> dict[str, float]:
    result: dict[str, Any] = json.loads((place / "work" / "results" / f"{name}.json").read_text())
    return {metric["name"]: metric["value"] for metric in result["metrics"]}


def test_an_interrupted_report_ends_its_server_and_goes_on_where_it_was(place: Path) -> None:
    command = [str(Path(sys.executable).parent / "jang-eval"), *arguments(place)]
    first = place / "work" / "results" / "reference-mmlu.json"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        until = time.monotonic() + 60
        while not first.exists() and time.monotonic() < until and running.poll() is None:
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, said
    assert b"the same command goes on from here" in said
    host, port = json.loads(first.read_text())["target"].split(":")
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((host, int(port)))
    before = written(place)
    assert not (place / "work" / "report.md").exists()

    result = report(place, "--json")
    assert result.exit_code == 0, result.stderr
    after = written(place)
    assert after.items() >= before.items()
    assert sorted(after) == sorted(
        f"{n}-{task}" for n in ("reference", "JANG_4M") for task in TASKS
    )
    document = json.loads(result.stdout)
    assert document["failures"] == []
    # A server's memory is measured before it gives any logits.
    steps = [result.stderr.index(f"reference: {name}") for name in ("speed", "store logits")]
    assert steps == sorted(steps)
    assert [each["label"] for each in document["models"]] == MODELS
    # What storing in 16 bits has changed, and what quantizing has.
    assert values(place, "reference-kl")["KL"] < 1e-5 < values(place, "JANG_4M-kl")["KL"]
    assert values(place, "reference-logit-mse")["logit MSE"] < 1e-5
    (answer,) = json.loads(after["JANG_4M-qa"])["outcomes"]
    assert answer["texts"]["question"] == "What colour is the sky?"
    assert "## humaneval" in (place / "work" / "report.md").read_text()
    assert "<svg" in (place / "work" / "report.html").read_text()


def test_only_what_does_not_fit_any_more_is_done_again(place: Path) -> None:
    assert report(place).exit_code == 0
    before = written(place)
    results = place / "work" / "results"
    foreign = json.loads((results / "JANG_4M-mmlu.json").read_text())
    foreign["model"]["digest"] = "ab" * 32
    (results / "JANG_4M-mmlu.json").write_text(json.dumps(foreign))
    (results / "reference-qa.json").write_text("{")
    old = json.loads((results / "reference-speed.json").read_text())
    (results / "reference-speed.json").write_text(json.dumps(old | {"task_version": 0}))
    (place / "text.txt").write_text((place / "text.txt").read_text() + "One line more of it.\n")
    result = report(place)
    assert result.exit_code == 0, result.stderr
    for said in (
        "JANG_4M-mmlu.json: model.digest: found 'abab",
        "reference-qa.json: found no JSON",
        "reference-speed.json: task_version: found 0, expected 1; it is measured again",
        "JANG_4M-kl.json: data_sha256: found ",
        "reference-perplexity.json: data_sha256: found ",
        "texts.bin: found it of another model, text or windows; it is written again",
    ):
        assert said in result.stderr
    changed = {name for name, content in written(place).items() if before[name] != content}
    assert changed <= {
        *("JANG_4M-mmlu", "reference-qa", "reference-speed"),
        *(f"{name}-{task}" for name in MODELS for task in ("kl", "perplexity")),
    }
    digests = [
        json.loads(each)["data_sha256"] for name, each in written(place).items() if "kl" in name
    ]
    assert len(set(digests)) == 1


def test_what_fails_is_named_and_the_rest_stays(place: Path) -> None:
    assert report(place).exit_code == 0
    (place / "empty").mkdir(exist_ok=True)
    result = report(place, "--directory", f"empty={place / 'empty'}", "--json")
    assert result.exit_code == 1
    assert "error: 1 of the steps failed: empty (serve)" in result.stderr
    document = json.loads(result.stdout)
    assert [each["label"] for each in document["models"]] == MODELS
    (failure,) = document["failures"]
    assert (failure["model"], failure["step"]) == ("empty", "serve")
    assert "jang-runtime serve ended with status 2" in failure["reason"]
    page = (place / "work" / "report.md").read_text()
    assert "Failed: empty: serve" in page
    assert "## kl" in page


def test_logits_of_another_reference_are_not_compared_with(place: Path) -> None:
    assert report(place).exit_code == 0
    (place / "empty").mkdir(exist_ok=True)
    result = report(place, "--reference", str(place / "empty"), "--json")
    assert result.exit_code == 1
    failures = {(each["model"], each["step"]) for each in json.loads(result.stdout)["failures"]}
    assert failures == {("reference", "serve"), ("JANG_4M", "logit-mse"), ("JANG_4M", "kl")}
    assert "JANG_4M: kl: there is nothing to compare with" in result.stderr
