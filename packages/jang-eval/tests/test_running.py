"""Running a task: what is asked, what is kept, and going on after an interruption."""

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from conftest import answering
from jang_eval._errors import ResultFileError, TargetError
from jang_eval._evaluation import EvaluationResult, Item, Metric, Outcome, Task
from jang_eval._records import from_json
from jang_eval._running import run_task
from jang_eval._statistics import wilson
from jang_eval._target import Target
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc


class Tokenizer(runtime_pb2_grpc.RuntimeServiceServicer):
    """Tokens of a text are its code points; what is asked is kept."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.refuse_from = 10**9
        self.busy = 0
        self.is_over = threading.Event()
        self.stuck: str | None = None

    def GetModelInfo(self, request: Any, context: Any) -> Any:
        return pb.GetModelInfoResponse(name="fake", digest="ab" * 32)

    def Tokenize(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self.lock:
            if self.busy:
                self.busy -= 1
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "1"),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue: full")
            self.asked.append(request.prompt.text)
            if len(self.asked) > self.refuse_from:
                context.abort(grpc.StatusCode.INTERNAL, "broken")
        if request.prompt.text == self.stuck:
            self.is_over.wait(30)
        return pb.TokenizeResponse(token_ids=[ord(each) for each in request.prompt.text])


@pytest.fixture
def server() -> Iterator[tuple[Tokenizer, Target]]:
    servicer = Tokenizer()
    with answering(servicer) as address, Target(address, timeout=10) as target:
        yield servicer, target
        servicer.is_over.set()


def ask(target: Target, item: Item) -> Outcome:
    tokens = target.tokenize(item.content)
    return Outcome(item.id, item.group, {"tokens": len(tokens)}, {"text": item.content})


def aggregate(outcomes: Sequence[Outcome]) -> list[Metric]:
    even = sum(outcome.numbers["tokens"] % 2 == 0 for outcome in outcomes)
    count = len(outcomes)
    return [Metric("even", even / count, wilson(even, count), "", "higher", count)]


def task(count: int = 20, **changes: Any) -> Task:
    items = [Item(f"{n}", "all", "x" * n) for n in range(1, count + 1)]
    fields: dict[str, Any] = {"name": "even", "version": 1, "data_sha256": "0" * 64}
    fields |= {"settings": {"shots": "0"}, "items": items, "ask": ask, "aggregate": aggregate}
    return Task(**(fields | changes))


def test_a_result_has_every_outcome_in_order_and_can_be_read_again(
    server: tuple[Tokenizer, Target], tmp_path: Path
) -> None:
    servicer, target = server
    seen: list[tuple[int, int]] = []
    result = run_task(
        task(), target, output=tmp_path / "r.json", on_progress=lambda *at: seen.append(at)
    )
    assert [outcome.id for outcome in result.outcomes] == [f"{n}" for n in range(1, 21)]
    assert (result.metrics[0].value, result.model.digest) == (0.5, "ab" * 32)
    assert sorted(servicer.asked, key=len) == ["x" * n for n in range(1, 21)]
    document = json.loads((tmp_path / "r.json").read_text())
    assert from_json(EvaluationResult, document) == result
    assert seen == [(n, 20) for n in range(21)]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_an_interrupted_run_asks_nothing_twice(
    server: tuple[Tokenizer, Target], tmp_path: Path
) -> None:
    servicer, target = server
    output = tmp_path / "r.json"
    servicer.refuse_from = 8
    with pytest.raises(TargetError, match="INTERNAL"):
        run_task(task(), target, output=output, in_flight=1)
    assert not output.exists()
    assert len(servicer.asked) == 9
    # As if killed in the middle of a line, and of a letter.
    journal = tmp_path / ".r.json.partial"
    journal.write_bytes(journal.read_bytes() + '{"id": "9", "gro\u00e9'.encode()[:-1])
    servicer.refuse_from, servicer.asked = 2, []
    with pytest.raises(TargetError, match="INTERNAL"):
        run_task(task(), target, output=output, in_flight=1)
    assert servicer.asked == ["x" * 9, "x" * 10, "x" * 11]
    servicer.refuse_from, servicer.asked = 10**9, []
    result = run_task(task(), target, output=output)
    assert sorted(servicer.asked, key=len) == ["x" * n for n in range(11, 21)]
    assert len(result.outcomes) == 20
    assert not journal.exists()


@pytest.mark.parametrize(
    "changes", [{"version": 2}, {"data_sha256": "1" * 64}, {"settings": {"shots": "5"}}]
)
def test_what_was_begun_under_other_rules_is_not_gone_on_with(
    server: tuple[Tokenizer, Target], tmp_path: Path, changes: dict[str, Any]
) -> None:
    servicer, target = server
    servicer.refuse_from = 3
    with pytest.raises(TargetError):
        run_task(task(), target, output=tmp_path / "r.json", in_flight=1)
    before = (tmp_path / ".r.json.partial").read_bytes()
    with pytest.raises(ResultFileError, match=r"\.r\.json\.partial: .* found .* expected"):
        run_task(task(**changes), target, output=tmp_path / "r.json")
    assert (tmp_path / ".r.json.partial").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of files")
@pytest.mark.parametrize("is_long", [False, True], ids=["the description", "an outcome"])
def test_a_journal_that_the_disk_has_no_room_for_is_one_line_and_stays_whole(
    server: tuple[Tokenizer, Target], tmp_path: Path, is_long: bool
) -> None:
    import resource

    _, target = server
    output, journal = tmp_path / "r.json", tmp_path / ".r.json.partial"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400 if is_long else 40, before[1]))
    try:
        with pytest.raises(ResultFileError) as caught:
            run_task(task(), target, output=output, in_flight=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"{journal}: cannot be written: File too large"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"}\n") for line in lines)
    assert bool(lines) == is_long
    with Target(target.address, timeout=10) as again:
        assert len(run_task(task(), again, output=output).outcomes) == 20


def test_a_journal_that_cannot_be_deleted_is_one_line(
    server: tuple[Tokenizer, Target], tmp_path: Path
) -> None:
    _, target = server

    def delete(done: int, total: int) -> None:
        if done == total:
            (tmp_path / ".r.json.partial").unlink()

    with pytest.raises(ResultFileError, match=r"partial: cannot be written: No such file"):
        run_task(task(), target, output=tmp_path / "r.json", on_progress=delete)


@pytest.mark.parametrize("content", ["[1]", "1", "null", '"text"', "{}\n[1]", "no JSON"])
def test_what_is_no_journal_is_refused_and_left_alone(
    server: tuple[Tokenizer, Target], tmp_path: Path, content: str
) -> None:
    _, target = server
    journal = tmp_path / ".r.json.partial"
    journal.write_text(content + "\n")
    with pytest.raises(ResultFileError, match=r"partial: found no journal of a run .*delete it"):
        run_task(task(), target, output=tmp_path / "r.json")
    assert journal.read_text() == content + "\n"


def test_a_busy_server_is_asked_again_when_it_says(server: tuple[Tokenizer, Target]) -> None:
    servicer, target = server
    servicer.busy = 3
    assert target.tokenize("abc") == (97, 98, 99)
    assert servicer.asked == ["abc"]


def test_ctrl_c_does_not_wait_for_answers_that_nobody_takes(
    server: tuple[Tokenizer, Target], tmp_path: Path
) -> None:
    servicer, target = server
    servicer.stuck = "x"
    ended: list[str] = []

    def ask_and_tell(target: Target, item: Item) -> Outcome:
        try:
            return ask(target, item)
        except TargetError as error:
            ended.append(str(error))
            raise

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(
            task(2, ask=ask_and_tell),
            target,
            output=tmp_path / "r.json",
            in_flight=2,
            on_progress=interrupt,
        )
    # Taken back, and not waited for until its time was up.
    (error,) = ended
    assert "CANCELLED" in error
    assert (tmp_path / ".r.json.partial").exists()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_was_answered_when_a_run_was_ended_is_not_asked_again(
    server: tuple[Tokenizer, Target], tmp_path: Path, kind: type[BaseException]
) -> None:
    servicer, target = server
    has_answers, is_ended = threading.Barrier(2), threading.Event()

    def ask_and_work(target: Target, item: Item) -> Outcome:
        outcome = ask(target, item)
        has_answers.wait(10)
        # As HumanEval, which runs what was answered.
        if item.id == "2":
            is_ended.wait(10)
        return outcome

    def end(done: int, total: int) -> None:
        if done:
            is_ended.set()
            raise kind

    output = tmp_path / "r.json"
    with pytest.raises(kind):
        run_task(task(2, ask=ask_and_work), target, output=output, in_flight=2, on_progress=end)
    assert sorted(servicer.asked) == ["x", "xx"]
    with Target(target.address, timeout=10) as again:
        assert len(run_task(task(2), again, output=output).outcomes) == 2
    assert sorted(servicer.asked) == ["x", "xx"]
