"""Servers whose answers do not fit what they were asked: one line each, never a traceback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import answering
from jang_eval._errors import TargetError
from jang_eval._target import Target
from jang_eval.cli import app
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc

VOCABULARY = 8


class Faulty(runtime_pb2_grpc.RuntimeServiceServicer):
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.scores: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def GetModelInfo(self, request: Any, context: Any) -> Any:
        return pb.GetModelInfoResponse(name="faulty", vocabulary_size=VOCABULARY, context_length=64)

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        return pb.GetServerInfoResponse(limits=pb.Limits(max_prompt_tokens=64))

    def Tokenize(self, request: Any, context: Any) -> Any:
        return pb.TokenizeResponse(token_ids=[ord(c) % VOCABULARY for c in request.prompt.text])

    def Score(self, request: Any, context: Any) -> Any:
        return pb.ScoreResponse(scores=[pb.ContinuationScore(**each) for each in self.scores])

    def Logits(self, request: Any, context: Any) -> Any:
        for rows in self.rows:
            yield pb.LogitsResponse(rows=pb.LogitsRows(**rows))


@pytest.fixture
def served() -> Iterator[tuple[Faulty, str]]:
    servicer = Faulty()
    with answering(servicer) as address:
        yield servicer, address


GOOD = {"logprob": -1.0, "token_logprobs": [-0.5, -0.5], "token_ids": [1, 2]}
SCORES = {
    "none": ([], "found 0 scores, expected 1"),
    "too many": ([GOOD, GOOD], "found 2 scores, expected 1"),
    "too few log-probabilities": (
        [GOOD | {"token_logprobs": [-0.5]}],
        "found a score of 1 tokens, expected 2",
    ),
    "too few tokens": (
        [GOOD | {"token_ids": [1]}],
        "found a score of other tokens than were asked for",
    ),
    "other tokens": (
        [GOOD | {"token_ids": [1, 3]}],
        "found a score of other tokens than were asked for",
    ),
    "no number": (
        [GOOD | {"token_logprobs": [-0.5, float("nan")]}],
        "found a score of nan, expected a finite one",
    ),
    "an impossible token": (
        [GOOD | {"token_logprobs": [-0.5, float("-inf")]}],
        "found a score of -inf, expected a finite one",
    ),
}


@pytest.mark.parametrize(("scores", "complaint"), SCORES.values(), ids=SCORES)
def test_scores_that_do_not_fit_what_was_asked_are_refused(
    served: tuple[Faulty, str], scores: list[dict[str, Any]], complaint: str
) -> None:
    servicer, address = served
    servicer.scores = scores
    with Target(address, timeout=10) as target, pytest.raises(TargetError) as caught:
        target.score((5,), [(1, 2)])
    assert str(caught.value) == f"server {address}: {complaint}"


def test_scores_of_a_text_agree_with_themselves(served: tuple[Faulty, str]) -> None:
    servicer, address = served
    with Target(address, timeout=10) as target:
        servicer.scores = [GOOD]
        assert target.score("a", ["b"])[0].token_ids == (1, 2)
        servicer.scores = [GOOD | {"token_ids": [1, 2, 3]}]
        with pytest.raises(TargetError, match="a score of 2 tokens, expected 3"):
            target.score("a", ["b"])


def rows(count: int, vocabulary: int = VOCABULARY) -> bytes:
    return np.zeros((count, vocabulary), "<f4").tobytes()


def one(**changes: Any) -> list[dict[str, Any]]:
    return [{"positions": [0], "values": rows(1), "vocabulary_size": VOCABULARY} | changes]


LOGITS = {
    "half a number": one(values=rows(1)[:-2]),
    "half a row": one(values=rows(1)[:16]),
    "two rows": one(values=rows(2)),
    "none": one(values=b""),
    "no vocabulary": one(vocabulary_size=0),
    "another vocabulary": one(values=rows(1, 4), vocabulary_size=4),
}


@pytest.mark.parametrize("said", LOGITS.values(), ids=LOGITS)
def test_logits_that_do_not_fit_the_vocabulary_are_refused(
    served: tuple[Faulty, str], said: list[dict[str, Any]]
) -> None:
    servicer, address = served
    servicer.rows = said
    with Target(address, timeout=10) as target, pytest.raises(TargetError) as caught:
        list(target.logits((1, 2), (0,)))
    assert "bytes of logits over" in str(caught.value)
    assert str(caught.value).endswith("expected 32 over 8 for 1 positions")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("perplexity", "found 0 scores, expected 1"),
        ("kl", "found 16 bytes of logits"),
        ("logit-mse", "found 16 bytes of logits"),
        ("reference", "found 16 bytes of logits"),
    ],
)
def test_commands_say_so_in_one_line(
    served: tuple[Faulty, str], tmp_path: Path, command: str, complaint: str
) -> None:
    servicer, address = served
    servicer.rows = LOGITS["half a row"]
    text = tmp_path / "text"
    text.write_text("some words\n")
    words = [command, "--target", address, "--data", str(text)]
    words += ["--reference", address] if command in ("kl", "logit-mse") else []
    words += [] if command == "logit-mse" else ["--window", "4"]
    words += ["-o", str(tmp_path / "out")] if command == "reference" else []
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: server {address}: {complaint}")
