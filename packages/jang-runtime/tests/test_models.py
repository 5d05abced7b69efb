"""Requests can name the model that they mean."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import AsyncClient, Client, Engine, Server, ServerError
from jang_runtime.testing import FakeServer

PROMPT = pb.Prompt(token_ids=pb.TokenIds(ids=[40, 41]))
SHORT = pb.Stopping(max_tokens=1)
CHAT = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
REQUESTS = {
    "Generate": pb.GenerateRequest(prompt=PROMPT, stopping=SHORT),
    "GenerateStream": pb.GenerateStreamRequest(prompt=PROMPT, stopping=SHORT),
    "Score": pb.ScoreRequest(context=PROMPT, continuations=[pb.Continuation(text="x")]),
    "Logits": pb.LogitsRequest(prompt=PROMPT),
    "Tokenize": pb.TokenizeRequest(prompt=PROMPT),
    "Detokenize": pb.DetokenizeRequest(token_ids=[40]),
    "ApplyChatTemplate": pb.ApplyChatTemplateRequest(chat=CHAT),
    "GetModelInfo": pb.GetModelInfoRequest(),
}


@pytest.fixture(scope="module")
def address(
    tiny_model: Path, serving: Callable[..., AbstractContextManager[Server]]
) -> Iterator[str]:
    with Engine(tiny_model) as engine, serving(engine) as server:
        yield server.address


@pytest.fixture
def stub(address: str) -> Iterator[runtime_pb2_grpc.RuntimeServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield runtime_pb2_grpc.RuntimeServiceStub(channel)


def call(stub: runtime_pb2_grpc.RuntimeServiceStub, method: str, model: str | None) -> Any:
    request = type(REQUESTS[method])()
    request.CopyFrom(REQUESTS[method])
    if model is not None:
        request.model = model
    answer = getattr(stub, method)(request)
    return list(answer) if isinstance(answer, grpc.Call) else answer


def test_the_served_model_is_listed_by_what_tells_it_from_others(address: str) -> None:
    with Client(address) as client:
        (model,) = client.list_models()
        info = client.model_info()
    assert (model.name, model.architecture, model.profile) == ("JANG_4M", "llama", "JANG_4M")
    assert (model.digest, model.context_length) == (info.digest, 512)
    assert model.digest


@pytest.mark.parametrize("method", REQUESTS)
def test_a_request_gets_the_model_that_it_names_or_is_told_which_one_there_is(
    stub: runtime_pb2_grpc.RuntimeServiceStub, method: str
) -> None:
    for model in (None, "", "JANG_4M"):
        assert call(stub, method, model)
    with pytest.raises(grpc.RpcError) as caught:
        call(stub, method, "JANG_2S")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    message = "model: found 'JANG_2S', expected 'JANG_4M', the model that is served, or none"
    assert caught.value.details() == message  # type: ignore[attr-defined]
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.reason, info.domain) == ("MODEL_NOT_FOUND", "jang.runtime")


def use_all(client: Any) -> list[Any]:
    return [
        client.generate([40], stopping=SHORT),
        client.stream([40], stopping=SHORT),
        client.score([40], [[41]]),
        client.logits([40]),
        client.tokenize([40]),
        client.detokenize([40]),
        client.apply_chat_template([("user", "hi")]),
        client.model_info(),
    ]


async def consume_all(address: str, given: Any) -> None:
    async with AsyncClient(address, **given) as client:
        for answer in use_all(client):
            if hasattr(answer, "__aiter__"):
                assert [event async for event in answer]
            else:
                await answer


@pytest.mark.parametrize("model", ["fake", None])
def test_clients_send_the_name_that_they_were_given_with_each_call(model: str | None) -> None:
    given: Any = {} if model is None else {"model": model}
    with FakeServer("yes") as server:
        with Client(server.address, **given) as client:
            for answer in use_all(client):
                list(answer) if hasattr(answer, "__next__") else answer
            blocking = [each.request for each in server.calls]
        asyncio.run(consume_all(server.address, given))
        requests: list[Any] = [each.request for each in server.calls]
    kinds = {type(each) for each in REQUESTS.values()}
    for half in (requests[: len(blocking)], requests[len(blocking) :]):
        assert {type(each) for each in half} == kinds
    assert {each.model for each in requests} == {model or ""}
    assert {each.HasField("model") for each in requests} == {model is not None}


def test_a_client_of_another_model_is_refused_by_real_and_fake_servers_alike(address: str) -> None:
    with FakeServer("yes") as fake:
        for target in (address, fake.address):
            with Client(target, model="JANG_2S") as client:
                with pytest.raises(ServerError) as caught:
                    client.generate("x", stopping=SHORT)
                assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
                assert client.list_models()
