"""HumanEval, from the data to the command, with a model that answers as it is told."""

import gzip
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from conftest import answering
from jang_eval._commands import humaneval as command
from jang_eval._errors import DataError, SandboxError
from jang_eval._sandbox import Limits, Sandbox, find_sandbox
from jang_eval._statistics import wilson
from jang_eval._tasks.humaneval import Problem, build_program, pass_at_k, read_problems, task
from jang_eval.cli import app
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc

PROBLEMS = [
    {
        "task_id": "Own/0",
        "prompt": 'def double(x):\n    """Twice x.\n    >>> double(2)\n    4\n    """\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "\n\ndef check(candidate):\n    assert candidate(2) == 4\n",
    },
    {
        "task_id": "Own/1",
        "prompt": 'def last(items: list):\n    """The last one."""\n',
        "entry_point": "last",
        "canonical_solution": "    return items[-1]\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 2\n",
    },
]
RIGHT = {each["prompt"]: each["canonical_solution"] for each in PROBLEMS}


class Model(runtime_pb2_grpc.RuntimeServiceServicer):
    """Completes as `answer` says; keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.calls = 0
        self.lock = threading.Lock()
        self.answer: Callable[[Any], str] = lambda request: RIGHT[request.prompt.text]

    def GetModelInfo(self, request: Any, context: Any) -> Any:
        self.calls += 1
        return pb.GetModelInfoResponse(name="fake", digest="ab" * 32)

    def Generate(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self.lock:
            self.calls += 1
            self.requests.append(request)
            text = self.answer(request)
        return pb.GenerateResponse(
            text=text,
            finished=pb.Finished(
                finish_reason=pb.FINISH_REASON_STOP_STRING,
                usage=pb.Usage(prompt_tokens=10, completion_tokens=5),
            ),
        )


@pytest.fixture
def model() -> Iterator[tuple[Model, str]]:
    servicer = Model()
    with answering(servicer) as address:
        yield servicer, address


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "HumanEval.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in PROBLEMS))
    return path


@pytest.fixture
def sandbox() -> Sandbox:
    try:
        return find_sandbox()
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


def run(address: str, data: Path, *options: str) -> Result:
    return CliRunner().invoke(
        app, ["humaneval", "--target", address, "--data", str(data), *options]
    )


def test_all_published_forms_hold_the_same_data(data: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed" / "HumanEval.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(data.read_bytes()))
    found = [read_problems(path) for path in (data, packed, packed.parent, tmp_path)]
    assert all(each == found[0] for each in found)
    assert [problem.task_id for problem in found[0][0]] == ["Own/0", "Own/1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no problem, expected"),
        (b"{", "line 1: found no JSON"),
        (b"[" * 200_000, "line 1: found no JSON"),
        (b"[1]", "line 1: task_id: found None, expected a text"),
        (json.dumps(PROBLEMS[0] | {"test": 3}).encode(), "line 1: test: found 3, expected a text"),
        (b"\n".join([json.dumps(PROBLEMS[0]).encode()] * 2), "found 'Own/0' twice"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8b\xff\xff", "cannot be read"),
        (b"\xff\xfe", "no UTF-8"),
    ],
)
def test_data_of_another_form_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_problems(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_program_is_the_prompt_with_its_completion_the_tests_and_their_call() -> None:
    problem = Problem("a", "def f():\n", "f", "def check(c): pass")
    program = build_program(problem, "    return 1")
    assert program == "def f():\n    return 1\ndef check(c): pass\ncheck(f)"


@pytest.mark.parametrize(("count", "passed"), [(5, 0), (5, 1), (5, 3), (5, 5), (7, 2)])
def test_pass_at_k_is_the_share_of_choices_with_one_that_passes(count: int, passed: int) -> None:
    answers = [True] * passed + [False] * (count - passed)
    for k in range(1, count + 1):
        choices = [any(choice) for choice in itertools.combinations(answers, k)]
        assert pass_at_k(count, passed, k) == pytest.approx(sum(choices) / len(choices))


def test_a_greedy_run_asks_as_lm_evaluation_harness_does_and_keeps_every_answer(
    model: tuple[Model, str], data: Path, tmp_path: Path, sandbox: Sandbox
) -> None:
    servicer, address = model
    servicer.answer = lambda request: (
        RIGHT[request.prompt.text] if "double" in request.prompt.text else "    return items[0]"
    )
    output = tmp_path / "r.json"
    result = run(address, data, "--allow-code-execution", "--json", "-o", str(output))
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document == json.loads(output.read_text())
    interval = wilson(1, 2)
    assert document["metrics"] == [
        {
            "name": "pass@1",
            "value": 0.5,
            "interval": {"low": interval.low, "high": interval.high},
            "unit": "",
            "better": "higher",
            "count": 2,
        }
    ]
    right, wrong = document["outcomes"]
    assert (right["group"], right["numbers"]["passed"], right["texts"]["failure"]) == (
        "Own/0",
        1,
        "",
    )
    assert wrong["texts"] == {
        "completion": "    return items[0]",
        "finish_reason": "stop_string",
        "failure": "assertion",
        "message": "AssertionError",
    }
    assert "failures: assertion 1" in result.stderr
    assert sandbox.description in result.stderr
    assert {request.prompt.text for request in servicer.requests} == set(RIGHT)
    for request in servicer.requests:
        assert list(request.stopping.stop_strings) == ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]
        assert request.stopping.max_tokens == 1024
        assert request.sampling.temperature == 0
        assert not request.sampling.HasField("seed")


@pytest.mark.usefixtures("sandbox")
def test_samples_are_drawn_each_with_its_seed_and_give_pass_at_k(
    model: tuple[Model, str], data: Path
) -> None:
    servicer, address = model
    # Of the first problem every second sample is right, of the second none.
    turn = itertools.count()
    servicer.answer = lambda request: (
        RIGHT[request.prompt.text]
        if "double" in request.prompt.text and next(turn) % 2
        else "    return None"
    )
    options = ("--allow-code-execution", "--samples", "4", "--temperature", "0.8", "--json")
    result = run(address, data, *options)
    assert result.exit_code == 0, result.stderr
    metrics = {each["name"]: each for each in json.loads(result.stdout)["metrics"]}
    assert metrics.keys() == {"pass@1", "pass@4"}
    assert metrics["pass@1"]["value"] == pytest.approx(0.25)
    assert metrics["pass@4"]["value"] == pytest.approx(0.5)
    assert metrics["pass@4"]["interval"] == {"low": 0.0, "high": 1.0}
    seeds = sorted(request.sampling.seed for request in servicer.requests)
    assert len(set(seeds)) == 8
    assert {round(request.sampling.top_p, 4) for request in servicer.requests} == {0.95}
    servicer.requests.clear()
    run(address, data, *options)
    assert sorted(request.sampling.seed for request in servicer.requests) == seeds


@pytest.mark.usefixtures("sandbox")
def test_samples_of_which_none_passes_are_no_proof_that_none_can(
    model: tuple[Model, str], data: Path
) -> None:
    model[0].answer = lambda request: "    return None"
    options = ("--allow-code-execution", "--samples", "2", "--temperature", "0.8", "--json")
    result = run(model[1], data, *options)
    assert result.exit_code == 0, result.stderr
    interval = wilson(0, 2)
    for metric in json.loads(result.stdout)["metrics"]:
        assert metric["value"] == 0
        assert metric["interval"] == {"low": interval.low, "high": interval.high}


@pytest.mark.usefixtures("sandbox")
def test_a_limit_takes_the_first_problems_and_the_table_shows_the_interval(
    model: tuple[Model, str], data: Path
) -> None:
    servicer, address = model
    result = run(address, data, "--allow-code-execution", "--limit", "1")
    assert result.exit_code == 0, result.stderr
    assert [request.prompt.text for request in servicer.requests] == [PROBLEMS[0]["prompt"]]
    assert "pass@1" in result.stdout
    assert "20.7 % to 100.0 %" in " ".join(result.stdout.split())


def test_results_say_in_which_sandbox_and_within_what(data: Path) -> None:
    limits = Limits(seconds=2.5, processes=3, file_bytes=2**24)
    settings = [task(data, Sandbox(each, limits)).settings for each in (True, False)]
    assert [each["sandbox"] for each in settings] == ["namespaces", "limits alone"]
    for name, value in {
        "seconds": "2.5",
        "cpu_seconds": "5",
        "memory_bytes": "536870912",
        "processes": "3",
        "file_bytes": "16777216",
        "files": "64",
    }.items():
        assert settings[0][name] == settings[1][name] == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "found no --allow-code-execution, expected it"),
        (("--allow-code-execution", "--samples", "3"), "temperature: found 0 with 3 samples"),
        (("--allow-code-execution", "--samples", "0"), "samples: found 0, expected 1 to 1000"),
        (("--allow-code-execution", "--temperature", "-1"), "temperature: found -1, expected"),
    ],
)
def test_what_is_refused_is_refused_before_the_server_is_asked(
    model: tuple[Model, str], data: Path, options: tuple[str, ...], message: str
) -> None:
    servicer, address = model
    result = run(address, data, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert servicer.calls == 0


def test_without_a_sandbox_nothing_runs_unless_the_weak_one_is_allowed(
    model: tuple[Model, str], data: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    servicer, address = model

    def find_none() -> Sandbox:
        raise SandboxError("found no namespaces, expected some")

    monkeypatch.setattr(command, "find_sandbox", find_none)
    result = run(address, data, "--allow-code-execution")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no sandbox for the model's code here (found no ")
    assert "--weak-sandbox" in result.stderr
    assert servicer.calls == 0
    monkeypatch.setattr(command, "find_weak_sandbox", lambda: sandbox)
    assert run(address, data, "--allow-code-execution", "--weak-sandbox").exit_code == 0
    assert len(servicer.requests) == 2
