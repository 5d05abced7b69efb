"""Prompts of any length against a server that holds no model; tokens are code points."""

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import answering
from jang_eval._cutting import prompt, score
from jang_eval._errors import OptionError, TargetError
from jang_eval._target import Target
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc

CONTEXT, PROMPT = 20, 18
MARK = "^"


class Server(runtime_pb2_grpc.RuntimeServiceServicer):
    """Keeps what it is asked to score; a mark stands before texts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def GetModelInfo(self, request: Any, context: Any) -> Any:
        return pb.GetModelInfoResponse(context_length=CONTEXT)

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        return pb.GetServerInfoResponse(limits=pb.Limits(max_prompt_tokens=PROMPT))

    def Tokenize(self, request: Any, context: Any) -> Any:
        return pb.TokenizeResponse(token_ids=ids(request.prompt))

    def Score(self, request: Any, context: Any) -> Any:
        asked = [each.text or shown(each.token_ids.ids) for each in request.continuations]
        self.asked.append((shown(ids(request.context)), asked))
        return pb.ScoreResponse(
            scores=[
                pb.ContinuationScore(
                    logprob=-len(each), token_logprobs=[-1] * len(each), token_ids=map(ord, each)
                )
                for each in asked
            ]
        )


def ids(asked: pb.Prompt) -> list[int]:
    if asked.token_ids.ids:
        return [*asked.token_ids.ids]
    return [*map(ord, MARK * asked.add_special_tokens + asked.text)]


def shown(tokens: Any) -> str:
    return "".join(map(chr, tokens))


@pytest.fixture
def served() -> Iterator[tuple[Server, Target]]:
    servicer = Server()
    with answering(servicer) as address, Target(address, timeout=10) as target:
        yield servicer, target


def as_the_harness_cuts(context: str, continuation: str, max_length: int) -> str:
    """`inp` of lm-evaluation-harness's `HFLM`, and the token that it takes off its end."""
    return (context + continuation)[-(max_length + 1) :]


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize("continuation", ["a", "abc", "a" * 12])
def test_what_is_scored_is_what_lm_evaluation_harness_scores(
    served: tuple[Server, Target], length: int, continuation: str
) -> None:
    servicer, target = served
    context = shown(range(0x100, 0x100 + length))
    found = score(target, context, [continuation])
    ((asked, (scored,)),) = servicer.asked
    assert scored == continuation
    whole = as_the_harness_cuts(MARK + context, continuation, CONTEXT)
    # The server's own limit comes besides.
    assert asked == whole.removesuffix(continuation)[-PROMPT:]
    assert found.cut == 1 + length - len(asked)
    assert found.scores[0].logprob == -len(continuation)


def test_continuations_of_different_lengths_have_the_context_that_each_has_room_for(
    served: tuple[Server, Target],
) -> None:
    servicer, target = served
    found = score(target, "x" * 30 + "  ", ["a", "bcdef", "g"], add_special_tokens=False)
    # Spaces before a continuation are its own.
    assert servicer.asked == [("x" * 18, ["  a", "  g"]), ("x" * 14, ["  bcdef"])]
    assert [each.logprob for each in found.scores] == [-3, -7, -3]
    assert found.cut == 16


def test_a_continuation_without_room_for_any_context_is_one_line(
    served: tuple[Server, Target],
) -> None:
    _, target = served
    score(target, "x" * 30, ["a" * 20])
    with pytest.raises(TargetError, match="a continuation of 21 tokens, expected at most 20"):
        score(target, "x" * 30, ["a" * 21])


def test_what_is_gone_on_with_leaves_room_for_the_answer(served: tuple[Server, Target]) -> None:
    _, target = served
    assert prompt(target, "x" * 7, 12) == ("x" * 7, 0)
    kept, cut = prompt(target, "x" * 5 + "y" * 8, 12)
    assert (shown(kept), cut) == ("y" * 8, 6)
    assert prompt(target, "x" * 8, 12, add_special_tokens=False) == ("x" * 8, 0)
    with pytest.raises(OptionError, match="max_tokens: found 20, expected fewer than 20"):
        prompt(target, "x", 20)
