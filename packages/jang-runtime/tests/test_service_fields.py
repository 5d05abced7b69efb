"""A field that is wrong has one name and one complaint, whatever call it is in, really or faked."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import Engine, Server
from jang_runtime.testing import FakeServer

Serving = Callable[..., AbstractContextManager[Server]]
Stub = runtime_pb2_grpc.RuntimeServiceStub
TEXT = pb.Prompt(text="abc")
NO_TURNS = pb.Prompt(chat=pb.Chat())
CHAT = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
NOTHING = "no tokens, expected at least one"
NO_MESSAGES = "no messages, expected at least one"
NO_TEMPLATE = "a conversation, expected text: this model has no chat template"


@pytest.fixture(scope="module")
def real(tiny_model: Path, serving: Serving) -> Iterator[Stub]:
    with (
        Engine(tiny_model) as engine,
        serving(engine) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Stub(channel)


@pytest.fixture(scope="module")
def fake() -> Iterator[Stub]:
    with FakeServer() as server, grpc.insecure_channel(server.address) as channel:
        yield Stub(channel)


def complaint(stub: Stub, request: Any) -> str:
    """What a server says of a request that is wrong."""
    method = type(request).__name__.removesuffix("Request")
    with pytest.raises(grpc.RpcError) as caught:
        answer = getattr(stub, method)(request)
        if method in ("Logits", "GenerateStream"):
            list(answer)
    return caught.value.details()  # type: ignore[attr-defined]


def score(context: pb.Prompt, *continuations: pb.Continuation) -> pb.ScoreRequest:
    return pb.ScoreRequest(context=context, continuations=continuations)


def chat_of(*roles: str) -> pb.Chat:
    return pb.Chat(messages=[pb.ChatMessage(role=role, content="hi") for role in roles])


def text(content: str) -> pb.Continuation:
    return pb.Continuation(text=content)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (pb.GenerateRequest(), "prompt: found none, expected one of text, token_ids, chat"),
        (pb.GenerateRequest(prompt=pb.Prompt(text="")), f"prompt.text: found {NOTHING}"),
        (pb.TokenizeRequest(prompt=pb.Prompt(text="")), f"prompt.text: found {NOTHING}"),
        (score(pb.Prompt(text=""), text("a")), f"context.text: found {NOTHING}"),
        (
            pb.GenerateStreamRequest(prompt=pb.Prompt(token_ids=pb.TokenIds())),
            f"prompt.token_ids: found {NOTHING}",
        ),
        (pb.GenerateRequest(prompt=NO_TURNS), f"prompt.chat.messages: found {NO_MESSAGES}"),
        (score(NO_TURNS, text("a")), f"context.chat.messages: found {NO_MESSAGES}"),
        (pb.ApplyChatTemplateRequest(), f"chat.messages: found {NO_MESSAGES}"),
        *[
            (asked, f"{field}.messages[1].role: found {count} characters, expected 1 to 64")
            for count in (0, 65)
            for turns in (chat_of("user", "r" * count),)
            for asked, field in (
                (pb.GenerateRequest(prompt=pb.Prompt(chat=turns)), "prompt.chat"),
                (pb.TokenizeRequest(prompt=pb.Prompt(chat=turns)), "prompt.chat"),
                (pb.ApplyChatTemplateRequest(chat=turns), "chat"),
            )
        ],
        (score(TEXT), "continuations: found 0, expected 1 to 1024"),
        (
            score(TEXT, text("a"), pb.Continuation()),
            "continuations[1]: found none, expected one of text, token_ids",
        ),
        (score(TEXT, text("a"), text("")), "continuations[1]: found nothing, expected text or"),
        (
            score(TEXT, text("a"), pb.Continuation(token_ids=pb.TokenIds(ids=[9999]))),
            "continuations[1].token_ids: found 9999, expected ids from 0 to",
        ),
        (
            pb.LogitsRequest(prompt=TEXT, positions=[0, 2, 1]),
            "positions: found 1 after 2, expected ascending ones from 0",
        ),
        (
            pb.LogitsRequest(prompt=TEXT, positions=[1, 3]),
            "positions: found 3, expected below the prompt's 3 tokens",
        ),
    ],
)
def test_the_real_server_and_the_fake_one_say_the_same_of_a_field_that_is_wrong(
    real: Stub, fake: Stub, request_: Any, expected: str
) -> None:
    assert complaint(real, request_).startswith(expected)
    assert complaint(fake, request_).startswith(expected)


@pytest.fixture(scope="module")
def without_template(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, serving: Serving
) -> Iterator[Stub]:
    path = tmp_path_factory.mktemp("plain") / "model"
    shutil.copytree(tiny_model, path)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    with (
        Engine(path) as engine,
        serving(engine) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Stub(channel)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(prompt=pb.Prompt(chat=CHAT)), "prompt.chat"),
        (pb.TokenizeRequest(prompt=pb.Prompt(chat=CHAT)), "prompt.chat"),
        (score(pb.Prompt(chat=CHAT), text("a")), "context.chat"),
        (pb.ApplyChatTemplateRequest(chat=CHAT), "chat"),
    ],
)
def test_a_conversation_that_a_model_has_no_template_for_is_named_where_it_stands(
    without_template: Stub, request_: Any, field: str
) -> None:
    assert complaint(without_template, request_) == f"{field}: found {NO_TEMPLATE}"
    with (
        FakeServer(model_info=pb.GetModelInfoResponse(context_length=512)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert complaint(Stub(channel), request_) == f"{field}: found {NO_TEMPLATE}"
