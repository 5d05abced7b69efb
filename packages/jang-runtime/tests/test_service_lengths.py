"""What a message has too much of is refused by its count, before anything is done with each."""

from typing import Any

import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime import InvalidRequestError
from jang_runtime._requests import check_token_ids
from jang_runtime._service import requests
from jang_runtime._service.options import RequestLimits

LIMITS = RequestLimits(max_prompt_tokens=100, max_tokens=50, context_length=200)
TEXT = pb.Prompt(text="x")
MANY_IDS = pb.Prompt(token_ids=pb.TokenIds(ids=range(101)))
MANY_TURNS = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user")] * 101))


def continuation(tokens: int) -> pb.Continuation:
    return pb.Continuation(token_ids=pb.TokenIds(ids=range(tokens)))


def generate(**fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(**({"prompt": TEXT} | fields))


def score(*continuations: pb.Continuation, context: pb.Prompt = TEXT) -> pb.ScoreRequest:
    return pb.ScoreRequest(context=context, continuations=continuations)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (generate(prompt=MANY_IDS), "prompt: found 101 tokens, expected at most 100"),
        (
            generate(prompt=MANY_TURNS),
            "prompt.chat.messages: found 101 messages, expected at most 100",
        ),
        (
            generate(sampling=pb.Sampling(logit_bias=dict.fromkeys(range(1025), 1.0))),
            "sampling.logit_bias: found 1025 tokens, expected at most 1024",
        ),
        (
            generate(stopping=pb.Stopping(stop_strings=["a"] * 17)),
            "stopping.stop_strings: found 17 strings, expected at most 16",
        ),
        (
            generate(stopping=pb.Stopping(stop_token_ids=range(65))),
            "stopping.stop_token_ids: found 65 tokens, expected at most 64",
        ),
        (
            score(continuation(1), context=MANY_IDS),
            "context: found 101 tokens, expected at most 100",
        ),
        (score(*[continuation(1)] * 1025), "continuations: found 1025, expected 1 to 1024"),
        (
            score(continuation(1), continuation(201)),
            "continuations[1]: found 201 tokens, expected at most the context's 200",
        ),
        (
            score(*[continuation(200)] * 3),
            "continuations: found 600 tokens together, expected at most 500",
        ),
        (
            pb.LogitsRequest(prompt=TEXT, positions=range(101)),
            "positions: found 101 positions, expected at most 100",
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_too_many_are_refused_before_one_of_them_is_looked_at(
    message: Any, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._service.lengths.MAX_CONTINUATION_TOKENS", 500)
    make = {
        pb.GenerateRequest: requests.generation_request,
        pb.ScoreRequest: requests.score_request,
        pb.LogitsRequest: requests.logits_request,
    }[type(message)]
    # What has one object for each of many things is not begun.
    for name in ("TokenPrompt", "ChatMessage", "Stopping", "ScoreRequest", "LogitsRequest"):
        monkeypatch.setattr(requests, name, None)
    with pytest.raises(InvalidRequestError) as caught:
        make(message, LIMITS)
    assert str(caught.value) == complaint


def test_the_first_token_that_the_model_does_not_have_is_named() -> None:
    check_token_ids("ids", (), 10)
    check_token_ids("ids", (0, 9, 4), 10)
    for ids in ((3, 10), (3, -1, 11)):
        with pytest.raises(InvalidRequestError, match=f"ids: found {ids[1]}, expected ids from 0"):
            check_token_ids("ids", ids, 10)
