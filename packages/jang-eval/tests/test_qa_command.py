"""The command `qa` against a real gRPC server on loopback that holds no model."""

import dataclasses
import hashlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner

from jang_eval import run_qa
from jang_eval._model_info import ModelInfo
from jang_eval.cli import app
from jang_proto.runtime.v1 import runtime_pb2, runtime_pb2_grpc

GOOD_ANSWERS = {
    "What is 2+2?": "2 + 2 = 4.",
    "What is the capital of France?": "The capital of France is Paris.",
    "What is the largest ocean on Earth?": "The Pacific Ocean.",
    "Who wrote Romeo and Juliet?": "William Shakespeare.",
    "How many legs does a spider have?": "Eight.",
    "What is photosynthesis?": "How plants turn light, water and CO₂ into sugar and oxygen.",
}
INFO = {
    "name": "SmolLM2-135M-JANG_2L",
    "architecture": "llama",
    "profile": "JANG_2L",
    "bits_per_weight": 3.25,
    "weight_bytes": 54_000_000,
    "context_length": 8192,
    "vocabulary_size": 49152,
    "eos_token_ids": [2, 7],
    "has_chat_template": True,
    "source_name": "smollm2",
    "source_quantization": "GGUF Q4_1",
    "plan_digest": "5a" * 32,
    "digest": "5f" * 32,
    "layout": "mlx",
    "special_tokens": {"bos": 1, "eos": 2, "pad": None, "unknown": 0},
    "bits_per_weight_without_embeddings": 3.0,
    "parameters": 134_515_008,
    "plan": [
        {
            "role": "mlp",
            "bits": 2,
            "group_size": 64,
            "modules": 90,
            "parameters": 79_626_240,
            "bytes": 24_883_200,
        },
        {
            "role": "unquantized",
            "bits": None,
            "group_size": None,
            "modules": 61,
            "parameters": 35_136,
            "bytes": 70_272,
        },
    ],
}


class FakeModel(runtime_pb2_grpc.RuntimeServiceServicer):
    """Answers each question with the text that `answer` gives, and keeps the requests."""

    def __init__(self, answer: Callable[[str], str], **info: Any) -> None:
        self.answer = answer
        self.info = INFO | info
        self.requests: list[runtime_pb2.GenerateRequest] = []

    def GetModelInfo(self, request: Any, context: Any) -> runtime_pb2.GetModelInfoResponse:
        return runtime_pb2.GetModelInfoResponse(**self.info)

    def Generate(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        asked = request.prompt.text or request.prompt.chat.messages[0].content
        question = next(question for question in GOOD_ANSWERS if question in asked)
        return runtime_pb2.GenerateResponse(
            text=self.answer(question),
            finished=runtime_pb2.Finished(
                finish_reason=runtime_pb2.FINISH_REASON_EOS,
                usage=runtime_pb2.Usage(prompt_tokens=10, completion_tokens=5),
            ),
        )

    def GenerateStream(self, request: Any, context: grpc.ServicerContext) -> Any:
        raise NotImplementedError


Serve = Callable[[Any], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a servicer until the test ends and returns its address."""
    with ExitStack() as stack:

        def start(servicer: Any) -> str:
            pool = stack.enter_context(ThreadPoolExecutor(max_workers=2))
            server = grpc.server(pool)
            if servicer is not None:
                runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            return f"127.0.0.1:{port}"

        yield start


@pytest.fixture
def closed_port() -> Iterator[int]:
    # Bound and not listening: nobody else gets the port, and connections are refused.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def qa(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["qa", *arguments])


def assert_is_user_error(result: Any, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_a_good_model_is_correct_six_times_and_the_json_says_all_there_is(serve: Serve) -> None:
    target = serve(FakeModel(GOOD_ANSWERS.__getitem__))

    result = qa("--target", target, "--json")

    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    data = resources.files("jang_eval._tasks").joinpath("qa_questions.toml").read_bytes()
    assert document["task"] == "qa"
    assert document["task_version"] == 3
    assert document["data_sha256"] == hashlib.sha256(data).hexdigest()
    assert document["target"] == target
    assert document["settings"] == {"max_tokens": "64", "temperature": "0", "asked as": "chat"}
    assert document["model"] == INFO
    answers = {each["texts"]["question"]: each["texts"]["answer"] for each in document["outcomes"]}
    assert answers == GOOD_ANSWERS
    first = document["outcomes"][0]
    assert first["numbers"].pop("generation_seconds") >= 0
    assert first == {
        "id": "addition",
        "group": "",
        "numbers": {"correct": 1.0, "prompt_tokens": 10.0, "completion_tokens": 5.0},
        "texts": {
            "question": "What is 2+2?",
            "answer": "2 + 2 = 4.",
            "verdict": "correct",
            "ideas found": "four",
            "finish_reason": "eos",
        },
        "arrays": {},
    }
    found = [(each["name"], each["value"], each["better"]) for each in document["metrics"]]
    assert found == [("correct", 1.0, "higher"), ("partial", 0.0, ""), ("broken", 0.0, "lower")]
    interval = document["metrics"][0]["interval"]
    assert interval == pytest.approx({"low": 0.6097, "high": 1.0}, abs=1e-4)


def test_the_model_is_asked_greedily_as_a_chat_with_the_tokens_it_was_allowed(serve: Serve) -> None:
    model = FakeModel(GOOD_ANSWERS.__getitem__)

    qa("--target", serve(model), "--max-tokens", "7")

    asked = {request.prompt.chat.messages[0].content for request in model.requests}
    assert asked == {*GOOD_ANSWERS}
    for request in model.requests:
        assert request.prompt.chat.messages[0].role == "user"
        assert request.sampling.HasField("temperature")
        assert request.sampling.temperature == 0
        assert request.stopping.max_tokens == 7
        assert not request.stopping.stop_strings


def test_a_model_without_a_chat_template_is_asked_in_plain_text(serve: Serve) -> None:
    model = FakeModel(GOOD_ANSWERS.__getitem__, has_chat_template=False)

    result = run_qa(serve(model))

    assert result.metrics[0].value == 1.0
    texts = {request.prompt.text for request in model.requests}
    assert texts == {f"Question: {question}\nAnswer:" for question in GOOD_ANSWERS}
    assert list(model.requests[0].stopping.stop_strings) == ["\nQuestion:"]


def test_answers_to_a_chat_and_to_plain_text_are_not_compared(serve: Serve, tmp_path: Path) -> None:
    files = [tmp_path / "chat.json", tmp_path / "plain.json"]
    for file, has_chat_template in zip(files, (True, False), strict=True):
        model = FakeModel(GOOD_ANSWERS.__getitem__, has_chat_template=has_chat_template)
        assert qa("--target", serve(model), "-o", str(file)).exit_code == 0

    result = CliRunner().invoke(app, ["compare", *map(str, files)])

    assert_is_user_error(result, "plain.json: settings.asked as: found plain, expected chat")


COLOUR = """
[[questions]]
id = "colour"
text = "What is 2+2?"
ideas = [{name = "four", pattern = "[4]"}, {name = "equals", pattern = "="}]
enough = 2
"""


def test_a_list_of_ones_own_is_asked_instead_and_its_digest_is_kept(
    serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(COLOUR)
    model = FakeModel(GOOD_ANSWERS.__getitem__, has_chat_template=False)

    result = qa("--target", serve(model), "--questions", str(file), "--json")

    document = json.loads(result.stdout)
    assert document["data_sha256"] == hashlib.sha256(COLOUR.encode()).hexdigest()
    (outcome,) = document["outcomes"]
    assert (outcome["id"], outcome["texts"]["verdict"]) == ("colour", "correct")
    assert outcome["texts"]["ideas found"] == "four, equals"
    assert model.requests[0].prompt.text == "Question: What is 2+2?\nAnswer:"


@pytest.mark.parametrize(
    ("garbage", "mode"),
    [
        (lambda question: "", "empty"),
        (lambda question: " \n \n ", "empty"),
        (lambda question: question, "prompt echo"),
        (lambda question: "1 2 3 5 6 7 9 10 11 12", "number sequence"),
        (lambda question: "0" * 64, "repetition loop"),
        (lambda question: "aterial " * 64, "repetition loop"),
        (lambda question: "of the and of the is of the of " * 8, "repetition loop"),
        (lambda question: "};\u200b ennen 鈥 |_ чис\x1b[2J [bold]{{ أ مان </s>", "wrong answer"),
    ],
)
def test_a_model_that_answers_garbage_is_broken_six_times_and_the_kind_is_named(
    serve: Serve, garbage: Callable[[str], str], mode: str
) -> None:
    result = qa("--target", serve(FakeModel(garbage)), "--json")

    texts = [each["texts"] for each in json.loads(result.stdout)["outcomes"]]
    assert [(each["verdict"], each["failure mode"]) for each in texts] == [("broken", mode)] * 6


def test_the_table_shows_answers_as_they_are_and_keeps_escape_sequences_off_the_terminal(
    serve: Serve,
) -> None:
    answers = GOOD_ANSWERS | {"What is 2+2?": "[bold]\x1b[2J 5"}
    result = qa("--target", serve(FakeModel(answers.__getitem__)))

    assert result.exit_code == 0, result.output
    assert "[bold]\N{REPLACEMENT CHARACTER}[2J 5" in result.stdout
    assert "\x1b" not in result.stdout
    assert "wrong answer" in result.stdout
    assert "SmolLM2-135M-JANG_2L" in result.stdout
    assert "83.3 %" in result.stdout


def test_the_output_file_holds_what_json_prints_and_replaces_what_was_there(
    serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "2L.json"
    file.write_text("old")

    result = qa("--target", serve(FakeModel(GOOD_ANSWERS.__getitem__)), "--json", "-o", str(file))

    assert file.read_text(encoding="utf-8") == result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["2L.json"]


def test_an_interrupted_run_asks_only_what_was_not_answered(serve: Serve, tmp_path: Path) -> None:
    class Breaking(FakeModel):
        breaks_at = "Who wrote Romeo and Juliet?"

        def Generate(self, request: Any, context: grpc.ServicerContext) -> Any:
            if request.prompt.chat.messages[0].content == self.breaks_at:
                context.abort(grpc.StatusCode.INTERNAL, "broken")
            return super().Generate(request, context)

    model = Breaking(GOOD_ANSWERS.__getitem__)
    asked = ["--target", serve(model), "-o", str(tmp_path / "r.json"), "--in-flight", "1"]
    assert_is_user_error(qa(*asked), "INTERNAL")
    before = len(model.requests)
    assert before == 3

    model.breaks_at = ""
    assert qa(*asked).exit_code == 0
    assert len(model.requests) == len(GOOD_ANSWERS)
    outcomes = json.loads((tmp_path / "r.json").read_text())["outcomes"]
    assert [each["texts"]["question"] for each in outcomes] == [*GOOD_ANSWERS]


def test_several_questions_are_asked_at_a_time(serve: Serve) -> None:
    both = threading.Barrier(2)

    class Together(FakeModel):
        def Generate(self, request: Any, context: grpc.ServicerContext) -> Any:
            both.wait(timeout=30)
            return super().Generate(request, context)

    result = qa("--target", serve(Together(GOOD_ANSWERS.__getitem__)), "--in-flight", "2")
    assert result.exit_code == 0, result.output


def test_an_output_that_cannot_be_written_is_told_before_the_server_is_asked(
    serve: Serve, tmp_path: Path
) -> None:
    model = FakeModel(GOOD_ANSWERS.__getitem__)
    target = serve(model)

    missing = tmp_path / "no" / "2L.json"
    assert_is_user_error(qa("--target", target, "-o", str(missing)), str(missing), "directory")
    assert_is_user_error(qa("--target", target, "-o", str(tmp_path)), str(tmp_path), "no file")
    # Stands for a device: a test that fails must not replace a real one.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert_is_user_error(qa("--target", target, "-o", str(pipe)), str(pipe), "no file")
    assert model.requests == []


def test_a_port_where_nobody_listens_is_one_line_that_names_it(closed_port: int) -> None:
    target = f"127.0.0.1:{closed_port}"
    assert_is_user_error(qa("--target", target), target, "not reachable", "expected a JANG server")


def test_a_server_slower_than_the_timeout_is_one_line_that_names_both(serve: Serve) -> None:
    answered = threading.Event()
    allowed: list[float] = []

    class Slow(FakeModel):
        def Generate(self, request: Any, context: grpc.ServicerContext) -> Any:
            allowed.append(context.time_remaining())
            answered.wait(timeout=30)

    target = serve(Slow(str))
    result = qa("--target", target, "--timeout", "0.2")
    answered.set()
    # What the client allows, not how long a busy machine takes to notice; rounded on its way.
    assert max(allowed) < 0.3
    assert_is_user_error(result, target, "no answer after 0.2 s")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_run_keeps_what_came(
    serve: Serve, tmp_path: Path, kind: signal.Signals
) -> None:
    last = [*GOOD_ANSWERS][-1]

    def answer(question: str) -> str:
        if question == last and signal.getsignal(kind) is not signal.SIG_DFL:
            os.kill(os.getpid(), kind)
            has_ended.wait(10)
        return GOOD_ANSWERS[question]

    has_ended = threading.Event()
    model = FakeModel(answer)
    words = ("--target", serve(model), "--in-flight", "1", "-o", str(tmp_path / "r.json"))
    result = qa(*words)
    has_ended.set()
    assert result.exit_code == 128 + kind
    assert result.stderr == "interrupted; the same command goes on from here\n"
    assert signal.getsignal(kind) is signal.SIG_DFL
    model.answer, model.requests = GOOD_ANSWERS.__getitem__, []
    assert qa(*words).exit_code == 0
    assert [each.prompt.chat.messages[0].content for each in model.requests] == [last]


def test_a_server_that_refuses_is_quoted_on_one_line(serve: Serve) -> None:
    class Refusing(FakeModel):
        def Generate(self, request: Any, context: grpc.ServicerContext) -> Any:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "stopping.max_tokens:\nfound 64")

    target = serve(Refusing(str))
    assert_is_user_error(
        qa("--target", target), target, "INVALID_ARGUMENT", "stopping.max_tokens: found 64"
    )


def test_a_server_of_something_else_is_told_from_a_jang_server(serve: Serve) -> None:
    target = serve(None)
    assert_is_user_error(qa("--target", target), target, "expected jang.runtime.v1")


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":50051", "http://a:1", "a:0", "a:65536", "::1:50051"]
)
def test_an_address_that_is_none_is_shown_beside_one_that_is(address: str) -> None:
    assert_is_user_error(qa("--target", address), repr(address), "expected HOST:PORT")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max-tokens", "0"),
        ("max-tokens", "4294967296"),
        ("timeout", "0"),
        ("timeout", "nan"),
        ("timeout", "inf"),
    ],
)
def test_an_option_out_of_range_is_named(option: str, value: str) -> None:
    name = option.replace("-", "_")
    result = qa("--target", "localhost:1", f"--{option}", value)
    assert_is_user_error(result, f"{name}: found {value}, expected")


def test_an_error_is_one_line_in_another_app_too(closed_port: int) -> None:
    umbrella = typer.Typer()
    umbrella.add_typer(app, name="eval")

    result = CliRunner().invoke(umbrella, ["eval", "qa", "--target", f"127.0.0.1:{closed_port}"])

    assert_is_user_error(result, "not reachable")


def test_the_result_has_every_field_of_the_model_info() -> None:
    api = [field.name for field in runtime_pb2.GetModelInfoResponse.DESCRIPTOR.fields]
    assert [field.name for field in dataclasses.fields(ModelInfo)] == api
