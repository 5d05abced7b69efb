"""The gRPC server on loopback: real sockets, the generated stubs, a real tiny model."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import Client, Engine, ListenError, Server, ServerError, start_server

Serving = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


@pytest.fixture(scope="module")
def address(engine: Engine, serving: Serving) -> Iterator[str]:
    with serving(engine) as server:
        yield server.address


@pytest.fixture
def stub(address: str) -> Iterator[runtime_pb2_grpc.RuntimeServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield runtime_pb2_grpc.RuntimeServiceStub(channel)


def text_request(text: str, **stopping: object) -> pb.GenerateStreamRequest:
    return pb.GenerateStreamRequest(
        prompt=pb.Prompt(text=text),
        stopping=pb.Stopping(**stopping),  # type: ignore[arg-type]
    )


def test_a_stream_is_started_deltas_finished_and_adds_up_to_the_unary_answer(
    stub: runtime_pb2_grpc.RuntimeServiceStub,
) -> None:
    events = list(stub.GenerateStream(text_request("hello", max_tokens=20)))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    assert events[0].started.prompt_tokens == 5
    assert events[0].started.request_id
    finished = events[-1].finished
    assert finished.finish_reason == pb.FINISH_REASON_MAX_TOKENS
    assert finished.usage.completion_tokens == 20
    assert finished.timings.prefill_seconds > 0
    unary = stub.Generate(
        pb.GenerateRequest(prompt=pb.Prompt(text="hello"), stopping=pb.Stopping(max_tokens=20))
    )
    assert unary.text == "".join(event.delta.text for event in events)
    assert list(unary.token_ids) == [i for event in events for i in event.delta.token_ids]
    assert unary.finished.usage.completion_tokens == 20
    # All but the last, from the request before it.
    assert unary.finished.usage.cached_prompt_tokens == 4


def test_fields_that_are_not_set_take_the_documented_defaults(
    stub: runtime_pb2_grpc.RuntimeServiceStub,
) -> None:
    bare = stub.Generate(pb.GenerateRequest(prompt=pb.Prompt(text="abc")))
    spelled = stub.Generate(
        pb.GenerateRequest(
            prompt=pb.Prompt(text="abc", add_special_tokens=True),
            sampling=pb.Sampling(temperature=0, top_p=1, top_k=0, min_p=0),
            stopping=pb.Stopping(max_tokens=509, ignore_eos=False),
        )
    )
    assert bare.text == spelled.text
    assert bare.finished.usage.completion_tokens == spelled.finished.usage.completion_tokens


def test_every_kind_of_stop_is_reported_with_what_matched(
    stub: runtime_pb2_grpc.RuntimeServiceStub,
) -> None:
    sampling = pb.Sampling(temperature=1.5, seed=5)
    base = pb.GenerateRequest(
        prompt=pb.Prompt(text="hello"), sampling=sampling, stopping=pb.Stopping(max_tokens=40)
    )
    free = stub.Generate(base)
    base.stopping.stop_token_ids.append(free.token_ids[7])
    stopped = stub.Generate(base).finished
    assert stopped.finish_reason == pb.FINISH_REASON_STOP_TOKEN
    assert stopped.stop_token_id == free.token_ids[7]
    del base.stopping.stop_token_ids[:]
    base.stopping.stop_strings.append(free.text[6:9])
    stopped = stub.Generate(base).finished
    assert stopped.finish_reason == pb.FINISH_REASON_STOP_STRING
    assert stopped.stop_string == free.text[6:9]


@pytest.mark.parametrize(
    ("request_", "details"),
    [
        (pb.GenerateRequest(), "prompt: found none, expected one of text, token_ids, chat"),
        (
            pb.GenerateRequest(prompt=pb.Prompt(text="x"), sampling=pb.Sampling(temperature=101)),
            "sampling.temperature: found 101.0, expected 0 to 100",
        ),
        (
            pb.GenerateRequest(
                prompt=pb.Prompt(token_ids=pb.TokenIds(ids=[384])),
            ),
            "prompt.token_ids: found 384, expected ids from 0 to 383",
        ),
    ],
)
def test_a_wrong_request_gets_invalid_argument_naming_field_value_and_range(
    stub: runtime_pb2_grpc.RuntimeServiceStub, request_: pb.GenerateRequest, details: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Generate(request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert caught.value.details() == details  # type: ignore[attr-defined]
    stream = pb.GenerateStreamRequest(
        prompt=request_.prompt if request_.HasField("prompt") else None, sampling=request_.sampling
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.GenerateStream(stream))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_model_info_says_what_is_served(
    stub: runtime_pb2_grpc.RuntimeServiceStub, tiny_model: Path
) -> None:
    info = stub.GetModelInfo(pb.GetModelInfoRequest())
    assert (info.name, info.architecture, info.profile) == ("JANG_4M", "llama", "JANG_4M")
    assert info.weight_bytes == (tiny_model / "model-00001-of-00001.safetensors").stat().st_size
    assert (info.context_length, info.vocabulary_size) == (512, 384)
    assert list(info.eos_token_ids) == [1]
    assert info.has_chat_template
    assert info.source_name == "source"
    assert 4.5 < info.bits_per_weight < 7


def test_the_python_client_asks_streams_and_reports_errors(address: str) -> None:
    with Client(address) as client:
        client.wait_until_ready()
        stopping = pb.Stopping(max_tokens=6)
        answer = client.generate([("user", "hi")], stopping=stopping)
        events = client.stream([("user", "hi")], stopping=stopping)
        assert "".join(event.delta.text for event in events) == answer.text
        assert client.model_info().profile == "JANG_4M"
        with pytest.raises(ServerError, match="INVALID_ARGUMENT: stopping.max_tokens: found 9999"):
            client.generate("x", stopping=pb.Stopping(max_tokens=9999))
        stream = client.stream("x", stopping=pb.Stopping(max_tokens=500, ignore_eos=True))
        next(stream)
        stream.close()
        assert client.generate("x", stopping=stopping).finished.usage.completion_tokens == 6
    with Client("127.0.0.1:1") as nobody, pytest.raises(ServerError, match="no answer within"):
        nobody.wait_until_ready(0.2)


@pytest.mark.parametrize("listen", ["50051", "localhost", ":50051", "localhost:port"])
def test_an_address_that_is_none_is_refused(engine: Engine, listen: str) -> None:
    with pytest.raises(ListenError, match="expected HOST:PORT"):
        asyncio.run(start_server(engine, listen))


def test_a_port_in_use_is_refused_not_shared(engine: Engine, address: str) -> None:
    with pytest.raises(ListenError, match="is not to be had"):
        asyncio.run(start_server(engine, address))
