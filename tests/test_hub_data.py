"""`--data hub:...` against a hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUESTION = {"question": 'Who "sings",\nand why?', "choices": ["a", "b,", "c", "d"], "answer": 1}
PROBLEM = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "test": "é"}
LINES = ["", " = A title = \n", "", "It was the best of times, it was the worst of times. " * 9]


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


DATASETS = {
    "cais/mmlu": {
        "all/test-00000-of-00001.parquet": columns([QUESTION | {"subject": "virology"}] * 2),
        "all/dev-00000-of-00001.parquet": columns([QUESTION | {"subject": "virology"}]),
    },
    "openai/openai_humaneval": {
        "openai_humaneval/test-00000-of-00001.parquet": columns([PROBLEM]),
    },
    "Salesforce/wikitext": {
        "wikitext-2-raw-v1/test-00000-of-00001.parquet": {"text": LINES},
        "other/test-00000-of-00001.parquet": {"lines": LINES},
        "holes/test-00000-of-00001.parquet": {"text": ["a line", None]},
    },
}


def write_datasets(directory: Path) -> None:
    for name, files in DATASETS.items():
        for path, content in files.items():
            file = directory / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pyarrow.table(content), file)


def tree(directory: Path) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": file.relative_to(directory).as_posix(),
            "size": file.stat().st_size,
            "oid": "0" * 40,
        }
        for file in sorted(directory.rglob("*.parquet"))
    ]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("hub")
    write_datasets(directory)

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "datasets"] and "/".join(parts[2:4]) in DATASETS:
                name = "/".join(parts[2:4])
                if parts[4:5] == ["tree"]:
                    return self.answer(json.dumps(tree(directory / name)).encode())
                files = [{"rfilename": path} for path in DATASETS[name]]
                answer = {"id": name, "sha": COMMIT, "siblings": files}
                return self.answer(json.dumps(answer).encode())
            if len(parts) > 4 and parts[3] == "resolve":
                file = directory.joinpath(*parts[1:3], *parts[5:])
                if file.is_file():
                    return self.answer(file.read_bytes())
            return self.answer(b"{}", 404)

        do_HEAD = do_GET

        def answer(self, content: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def python(hub: str, home: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"},
    )


def jang_eval(hub: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(hub, home, "from jang_eval.cli import app; app()", *arguments)


def test_data_of_the_hub_are_asked_and_their_revision_is_kept(
    hub: str, served: str, tmp_path: Path
) -> None:
    target = ("--target", served, "--json")
    done = jang_eval(hub, tmp_path, "mmlu", *target, "--data", "hub:cais/mmlu", "--shots", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["data_source"] == f"hub:cais/mmlu/all@{COMMIT}"
    assert [each["id"] for each in result["outcomes"]] == ["virology/0", "virology/1"]
    assert result["outcomes"][0]["texts"]["question"] == QUESTION["question"]
    assert result["outcomes"][0]["texts"]["expected"] == "B. b,"

    options = ("--data", "hub:Salesforce/wikitext/wikitext-2-raw-v1@main", "--window", "64")
    done = jang_eval(hub, tmp_path, "perplexity", *target, *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    text = "\n = A title = \n\n" + LINES[-1] + "\n"
    assert result["data_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert result["data_source"] == f"hub:Salesforce/wikitext/wikitext-2-raw-v1@{COMMIT}"


def test_a_report_takes_data_of_the_hub_for_as_long_as_it_runs(hub: str, tmp_path: Path) -> None:
    code = (
        "from unittest.mock import patch; from jang_eval.cli import app\n"
        "from jang_eval._protocol.running import Report\n"
        "def run(project, *_):\n"
        "    data = project.data\n"
        "    for path in (data.mmlu.path, *data.texts.paths): assert path.exists()\n"
        "    print(data.mmlu.source, data.texts.source)\n"
        "    return Report()\n"
        "with patch('jang_eval._commands.report.run_protocol', run): app()"
    )
    options = ("report", str(tmp_path), "--work", str(tmp_path), "--mmlu", "hub:cais/mmlu")
    text = "hub:Salesforce/wikitext/wikitext-2-raw-v1"
    done = python(hub, tmp_path, code, *options, "--text", text, "--subset", "1x2", "--shots", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"hub:cais/mmlu/all@{COMMIT} {text}@{COMMIT}\n")


def test_problems_of_the_hub_are_those_of_the_published_file(hub: str, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from jang_eval._hub import HUMANEVAL, local_data\n"
        "from jang_eval._tasks.humaneval import read_problems\n"
        "with local_data(Path('hub:openai/openai_humaneval'), HUMANEVAL) as found:\n"
        "    print(ascii(read_problems(found.path)[0]), found.source)"
    )
    done = python(hub, tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert "prompt='def f():\\n', entry_point='f', test='\\xe9'" in done.stdout
    assert done.stdout.endswith(f" hub:openai/openai_humaneval/openai_humaneval@{COMMIT}\n")


@pytest.mark.parametrize(
    ("command", "name", "line"),
    [
        ("mmlu", "hub:cais/none", "the Hugging Face hub does not give it"),
        ("mmlu", "hub:cais/mmlu/none", "found no such files there"),
        ("mmlu", "hub:cais", "expected hub:OWNER/NAME/CONFIGURATION"),
        ("perplexity", "hub:Salesforce/wikitext", "expected hub:OWNER/NAME/CONFIGURATION"),
        ("perplexity", "hub:Salesforce/wikitext/other", "expected parquet with text"),
        ("perplexity", "hub:Salesforce/wikitext/holes", "found text None in test-00000-of"),
    ],
)
def test_what_the_hub_has_not_got_is_one_line(
    hub: str, tmp_path: Path, command: str, name: str, line: str
) -> None:
    done = jang_eval(hub, tmp_path, command, "--target", "127.0.0.1:1", "--data", name)
    assert done.returncode == 2
    assert (done.stdout, done.stderr.count("error: ")) == ("", 1)
    assert line in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_a_network_the_line_says_so(tmp_path: Path) -> None:
    options = ("mmlu", "--target", "127.0.0.1:1", "--data", "hub:cais/mmlu")
    done = jang_eval("http://127.0.0.1:1", tmp_path, *options)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: hub:cais/mmlu: not in the local cache, and the Hugging Face hub cannot be reached"
    )
