"""Log-probabilities of prompts come in pieces, and no more of them are made than are read."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import Client, Engine, PromptLogprobs, Server, TokenLogprobs
from jang_runtime._prefill import Prefill
from jang_runtime._scheduler import Scheduler
from jang_runtime._service.responses import prompt_logprobs_messages

Serving = Callable[..., AbstractContextManager[Server]]
PROMPT = "x" * 500
TWENTY = pb.Logprobs(prompt=20)
FEW = pb.Stopping(max_tokens=2, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


@pytest.fixture(scope="module")
def server(engine: Engine, serving: Serving) -> Iterator[Server]:
    with serving(engine) as running:
        yield running


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of the pieces in which the engine works through prompts, 50 at most."""
    seen: list[int] = []
    advance = Prefill.advance

    def counted(self: Prefill, most: int, use: Any) -> int:
        seen.append(advance(self, most, use))
        return seen[-1]

    monkeypatch.setattr("jang_runtime._caches._LOGITS_BYTES", 50 * 384 * 4)
    monkeypatch.setattr(Prefill, "advance", counted)
    return seen


def test_those_of_a_long_prompt_are_streamed_in_pieces_and_answered_at_once(
    server: Server, pieces: list[int]
) -> None:
    with Client(server.address) as client:
        events = list(client.stream(PROMPT, stopping=FEW, logprobs=TWENTY))
        whole = client.generate(PROMPT, stopping=FEW, logprobs=TWENTY)
    kinds = [event.WhichOneof("event") for event in events]
    count = kinds.count("prompt_logprobs")
    assert count >= 10
    assert kinds[1 : count + 1] == ["prompt_logprobs"] * count
    parts = [event.prompt_logprobs.tokens for event in events[1 : count + 1]]
    assert max(len(part) for part in parts) <= 50
    assert [entry for part in parts for entry in part] == list(whole.prompt_logprobs.tokens)
    assert len(whole.prompt_logprobs.tokens) == 499


def test_a_prompt_of_one_token_has_an_empty_piece(server: Server) -> None:
    with Client(server.address) as client:
        events = list(client.stream([70], stopping=FEW, logprobs=TWENTY))
        assert events[1].HasField("prompt_logprobs")
        assert not events[1].prompt_logprobs.tokens
        answer = client.generate([70], stopping=FEW, logprobs=TWENTY)
        assert answer.HasField("prompt_logprobs")


@pytest.mark.parametrize("top", [0, 20])
def test_no_message_is_longer_than_a_megabyte_however_long_the_piece(top: int) -> None:
    entry = TokenLogprobs(2**32 - 1, -1.5, 2**32 - 1, tuple((2**32 - 1, -2.5) for _ in range(top)))
    event = PromptLogprobs((entry,) * (2**21 // (8 * (1 + top))))
    messages = list(prompt_logprobs_messages(event))
    assert max(len(message.SerializeToString()) for message in messages) <= 2**20
    assert sum(len(message.tokens) for message in messages) == len(event.tokens)
    assert len(messages) < 8


def test_those_that_nobody_reads_are_not_computed_and_keep_nobody_else_waiting(
    server: Server, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Scheduler] = []
    step = Scheduler.step

    def counted(self: Scheduler, outside: Any) -> None:
        steps.append(self)
        step(self, outside)

    monkeypatch.setattr(Scheduler, "step", counted)
    # The first pieces fill the stream's window.
    small = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    request = pb.GenerateStreamRequest(prompt=pb.Prompt(text=PROMPT), stopping=FEW, logprobs=TWENTY)
    with grpc.insecure_channel(server.address, small) as channel, Client(server.address) as other:
        call = runtime_pb2_grpc.RuntimeServiceStub(channel).GenerateStream(request)
        next(call)
        time.sleep(0.5)
        made = sum(pieces)
        assert made <= 200
        # Nor is the engine busy with waiting.
        assert len(steps) < 50
        assert other.generate("hello", stopping=FEW, timeout=10).token_ids
        assert len(other.score("hello", [" you"], timeout=10)) == 1
        assert other.server_info().load.active == 1
        # The others have 10 tokens.
        assert sum(pieces) <= made + 10
        events = list(call)
    assert sum(len(event.prompt_logprobs.tokens) for event in events) == 499
    assert events[-1].HasField("finished")
