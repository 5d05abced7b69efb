"""Every call, limit and error of a server, over real sockets, with a real tiny model."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from jang_format import read_directory, summarize
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime import (
    Engine,
    EngineOptions,
    Logits,
    LogitsRequest,
    Score,
    ScoreRequest,
    Server,
    ServiceOptions,
    TextPrompt,
)
from jang_runtime.terminal import stream_events

Serving = Callable[..., AbstractContextManager[Server]]
Stub = runtime_pb2_grpc.RuntimeServiceStub
# Bytes of keys and values of a token: 2 layers, 2 heads of 32, float32.
TOKEN = 2 * 2 * 32 * 2 * 4
ENDLESS = pb.Stopping(max_tokens=500, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(tiny_model) as running:
        yield running


@pytest.fixture(scope="module")
def stub(engine: Engine, serving: Serving) -> Iterator[Stub]:
    with serving(engine) as server, grpc.insecure_channel(server.address) as channel:
        yield Stub(channel)


@pytest.fixture
def limited(tiny_model: Path, serving: Serving) -> Iterator[tuple[Server, Stub]]:
    """A server with low limits, one request at a time."""
    options = ServiceOptions(
        max_queued=2, max_prompt_tokens=100, max_tokens=250, max_message_bytes=2000
    )
    engine_options = EngineOptions(max_active=1, cache_bytes=384 * TOKEN, prefix_cache_bytes=0)
    with (
        Engine(tiny_model, options=engine_options) as engine,
        serving(engine, options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield server, Stub(channel)


def text(prompt: str) -> pb.Prompt:
    return pb.Prompt(text=prompt)


def error_of(work: Callable[[], Any]) -> tuple[str, str, grpc.RpcError]:
    """Code and reason of the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        work()
    info = detail(caught.value, error_details_pb2.ErrorInfo)
    return caught.value.code().name, info.reason if info else "", caught.value  # type: ignore[attr-defined]


def detail(error: grpc.RpcError, kind: type[Any]) -> Any:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for packed in status.details if status else ():
        unpacked = kind()
        if packed.Unpack(unpacked):
            return unpacked
    return None


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_scores_are_the_engines(stub: Stub, engine: Engine) -> None:
    continuations = (" world", "!", (70, 71, 72))
    request = pb.ScoreRequest(
        context=text("hello"),
        continuations=[
            pb.Continuation(text=each)
            if isinstance(each, str)
            else pb.Continuation(token_ids=pb.TokenIds(ids=each))
            for each in continuations
        ],
    )
    answer = stub.Score(request)
    events = stream_events(engine, ScoreRequest(TextPrompt("hello"), continuations))
    expected = [event for event in events if isinstance(event, Score)]
    assert len(answer.scores) == 3
    for found, score in zip(answer.scores, expected, strict=True):
        assert tuple(found.token_ids) == score.token_ids
        assert tuple(found.token_logprobs) == pytest.approx(score.logprobs, abs=1e-5)
        assert found.logprob == pytest.approx(score.total, abs=1e-4)
        assert found.is_greedy == score.is_greedy
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 10)


@pytest.mark.parametrize("positions", [(), (0, 7, 499)])
def test_logits_come_in_bounded_chunks_and_are_the_engines(
    stub: Stub, engine: Engine, positions: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_runtime._service.responses._CHUNK_BYTES", 100 * 384 * 4)
    events = list(stub.Logits(pb.LogitsRequest(prompt=text("x" * 500), positions=positions)))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["rows"] * (len(kinds) - 2), "finished"]
    chunks = [event.rows for event in events[1:-1]]
    assert all(len(rows.values) <= 100 * 384 * 4 for rows in chunks)
    assert tuple(n for rows in chunks for n in rows.positions) == (positions or tuple(range(500)))
    found = np.frombuffer(b"".join(rows.values for rows in chunks), "<f4").reshape(-1, 384)
    request = LogitsRequest(TextPrompt("x" * 500), positions or None)
    expected = [event.values for event in stream_events(engine, request) if type(event) is Logits]
    np.testing.assert_array_equal(found, np.concatenate(expected))


def test_tokens_texts_and_conversations_go_there_and_back(stub: Stub) -> None:
    ids = stub.Tokenize(pb.TokenizeRequest(prompt=text("héllo </s>"))).token_ids
    assert ids[-1] == 1
    assert stub.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text == "héllo "
    whole = pb.DetokenizeRequest(token_ids=ids, skip_special_tokens=False)
    assert stub.Detokenize(whole).text == "héllo </s>"
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    applied = stub.ApplyChatTemplate(pb.ApplyChatTemplateRequest(chat=chat))
    assert applied.text == "user: hi\nassistant: "
    assert (
        applied.token_ids == stub.Tokenize(pb.TokenizeRequest(prompt=text(applied.text))).token_ids
    )
    assert (
        applied.token_ids
        == stub.Tokenize(pb.TokenizeRequest(prompt=pb.Prompt(chat=chat))).token_ids
    )
    bare = pb.ApplyChatTemplateRequest(chat=chat, add_generation_prompt=False)
    assert stub.ApplyChatTemplate(bare).text == "user: hi\n"


def test_the_model_is_described_to_the_byte(stub: Stub, tiny_model: Path) -> None:
    info = stub.GetModelInfo(pb.GetModelInfoRequest())
    summary = summarize(read_directory(tiny_model))
    assert info.digest == summary.digest
    assert len(info.digest) == 64
    assert info.bits_per_weight == summary.bits_per_weight
    assert info.parameters == summary.parameters
    assert (info.layout, info.special_tokens.eos, info.special_tokens.bos) == ("mlx", 1, 0)
    assert not info.special_tokens.HasField("pad")
    assert {row.role for row in info.plan} >= {"attention", "mlp", "embedding", "unquantized"}
    assert sum(row.bytes for row in info.plan) <= info.weight_bytes
    assert len(info.plan_digest) == 64
    assert [row.HasField("bits") for row in info.plan if row.role == "unquantized"] == [False]


def test_the_server_tells_its_limits_and_what_it_does(limited: tuple[Server, Stub]) -> None:
    server, stub = limited
    info = stub.GetServerInfo(pb.GetServerInfoRequest())
    limits = info.limits
    assert (limits.max_prompt_tokens, limits.max_tokens, limits.max_queued) == (100, 250, 2)
    assert (limits.max_message_bytes, limits.max_active) == (2000, 1)
    assert (limits.max_stop_strings, limits.max_top_logprobs) == (16, 20)
    assert limits.max_stop_string_characters == 1024
    assert limits.cache_bytes == 384 * TOKEN
    assert (info.ranks, info.sharding) == (1, pb.SHARDING_NONE)
    assert info.backend
    assert info.version == "0.1.0"
    assert info.load_seconds > 0
    assert 0 < info.load.memory_bytes <= info.load.peak_memory_bytes < info.load.resident_bytes
    call = stub.GenerateStream(pb.GenerateStreamRequest(prompt=text("a"), stopping=long(250)))
    next(call)

    def load() -> tuple[int, int, int]:
        found = stub.GetServerInfo(pb.GetServerInfoRequest()).load
        return found.active, found.queued, found.cache_bytes_reserved

    wait_until(lambda: load() == (1, 0, 256 * TOKEN))
    call.cancel()
    wait_until(lambda: load() == (0, 0, 0))
    assert server.address


def long(max_tokens: int = 250) -> pb.Stopping:
    return pb.Stopping(max_tokens=max_tokens, ignore_eos=True)


def test_every_way_to_choose_tokens_reaches_the_engine(stub: Stub) -> None:
    def first(**sampling: Any) -> int:
        request = pb.GenerateRequest(
            prompt=text("hello"),
            sampling=pb.Sampling(**sampling),
            stopping=pb.Stopping(max_tokens=30, ignore_eos=True),
        )
        answers.append(list(stub.Generate(request).token_ids))
        return answers[-1][0]

    answers: list[list[int]] = []
    plain = first()
    assert first(logit_bias={77: 10000}) == 77
    assert answers[1] == [77] * 30
    assert first(logit_bias={plain: -10000}) != plain
    first(presence_penalty=100)
    assert len(set(answers[-1])) == 30
    first(frequency_penalty=100)
    assert len(set(answers[-1])) == 30
    first(logit_bias={77: 50}, repetition_penalty=100, penalty_window=1)
    assert len(set(answers[-1])) > 1
    assert answers[-1].count(77) > 1


def test_log_probabilities_come_with_prompt_and_answer(stub: Stub) -> None:
    request = pb.GenerateStreamRequest(
        prompt=text("hello"),
        stopping=pb.Stopping(max_tokens=5, ignore_eos=True),
        logprobs=pb.Logprobs(output=3, prompt=2),
    )
    events = list(stub.GenerateStream(request))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["started", "prompt_logprobs"]
    prompt = events[1].prompt_logprobs.tokens
    assert [len(entry.top) for entry in prompt] == [2] * 4
    output = [entry for event in events for entry in event.delta.logprobs]
    for entry in [*prompt, *output]:
        likelier = [token.token_id for token in entry.top if token.logprob > entry.logprob]
        assert entry.HasField("rank")
        assert min(entry.rank, 1 + len(entry.top)) == 1 + len(likelier)
    assert [entry.token_id for entry in output] == [
        token for event in events for token in event.delta.token_ids
    ]
    for entry in output:
        # Greedy: what came was the most likely.
        assert (entry.top[0].token_id, entry.top[0].logprob) == (entry.token_id, entry.logprob)
        assert [each.logprob for each in entry.top] == sorted(
            (each.logprob for each in entry.top), reverse=True
        )
    unary = stub.Generate(
        pb.GenerateRequest(
            prompt=request.prompt, stopping=request.stopping, logprobs=request.logprobs
        )
    )
    assert [entry.token_id for entry in unary.logprobs] == [entry.token_id for entry in output]
    assert unary.prompt_logprobs.tokens == prompt


@pytest.mark.parametrize("method", ["GenerateStream", "Generate", "Score", "Logits"])
def test_a_request_is_aborted_by_its_name_from_elsewhere(
    stub: Stub, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is that slow: the request has to be under way for long enough.
    monkeypatch.setattr("jang_runtime._scheduler._PIECE_ALONE", {"cpu": 1})
    monkeypatch.setattr("jang_runtime._scheduler._PIECE", {"cpu": 1})
    stopping = {"stopping": ENDLESS, "sampling": pb.Sampling(temperature=1, top_p=0.9)}
    request = {
        "GenerateStream": pb.GenerateStreamRequest(prompt=text("hello"), **stopping),
        "Generate": pb.GenerateRequest(prompt=text("hello"), **stopping),
        "Score": pb.ScoreRequest(
            context=text("y" * 400), continuations=[pb.Continuation(text="z" * 90)] * 900
        ),
        "Logits": pb.LogitsRequest(prompt=text("hello" * 100)),
    }[method]
    outcome: list[Any] = []

    def call() -> None:
        metadata = (("x-request-id", f"mine-{method}"),)
        try:
            answer = getattr(stub, method)(request, metadata=metadata)
            outcome.append(answer if method == "Generate" else list(answer))
        except grpc.RpcError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    abort = pb.AbortRequest(request_id=f"mine-{method}")
    wait_until(lambda: stub.Abort(abort).was_running)
    thread.join(timeout=10)
    assert not stub.Abort(abort).was_running
    if method == "Generate":
        assert outcome[0].finished.finish_reason == pb.FINISH_REASON_CANCELLED
    elif method == "GenerateStream":
        assert outcome[0][-1].finished.finish_reason == pb.FINISH_REASON_CANCELLED
        assert outcome[0][-1].finished.usage.completion_tokens < 500
    else:
        assert outcome[0].code() == grpc.StatusCode.CANCELLED
        assert detail(outcome[0], error_details_pb2.ErrorInfo).reason == "ABORTED"


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Generate", pb.GenerateRequest(), "prompt"),
        ("Generate", pb.GenerateRequest(prompt=pb.Prompt(text="")), "prompt.text"),
        ("Generate", pb.GenerateRequest(prompt=pb.Prompt(chat=pb.Chat())), "prompt.chat.messages"),
        ("Generate", pb.GenerateRequest(prompt=text("y" * 512)), "prompt"),
        *[
            ("Generate", pb.GenerateRequest(prompt=text("x"), sampling=sampling), field)
            for field, sampling in (
                ("sampling.temperature", pb.Sampling(temperature=float("nan"))),
                ("sampling.top_p", pb.Sampling(top_p=0)),
                ("sampling.top_k", pb.Sampling(top_k=385)),
                ("sampling.min_p", pb.Sampling(min_p=1.5)),
                ("sampling.logit_bias", pb.Sampling(logit_bias={384: 1})),
                ("sampling.logit_bias", pb.Sampling(logit_bias={7: 10001})),
                ("sampling.logit_bias", pb.Sampling(logit_bias={7: float("nan")})),
                ("sampling.repetition_penalty", pb.Sampling(repetition_penalty=0)),
                ("sampling.presence_penalty", pb.Sampling(presence_penalty=101)),
                ("sampling.frequency_penalty", pb.Sampling(frequency_penalty=-101)),
            )
        ],
        *[
            ("Generate", pb.GenerateRequest(prompt=text("x"), stopping=stopping), field)
            for field, stopping in (
                ("stopping.max_tokens", pb.Stopping(max_tokens=0)),
                ("stopping.max_tokens", pb.Stopping(max_tokens=513)),
                ("stopping.stop_strings", pb.Stopping(stop_strings=["a"] * 17)),
                ("stopping.stop_strings", pb.Stopping(stop_strings=[""])),
                ("stopping.stop_strings", pb.Stopping(stop_strings=["a", "b" * 1025])),
                ("stopping.stop_token_ids", pb.Stopping(stop_token_ids=[384])),
                ("stopping.time_limit_seconds", pb.Stopping(time_limit_seconds=0)),
                ("stopping.time_limit_seconds", pb.Stopping(time_limit_seconds=1000001)),
            )
        ],
        *[
            ("Generate", pb.GenerateRequest(prompt=text("x"), logprobs=logprobs), field)
            for field, logprobs in (
                ("logprobs.output", pb.Logprobs(output=21)),
                ("logprobs.prompt", pb.Logprobs(prompt=21)),
            )
        ],
        (
            "Generate",
            pb.GenerateRequest(prompt=text("x"), logprobs=pb.Logprobs(output=21)),
            "logprobs.output",
        ),
        ("Score", pb.ScoreRequest(), "context"),
        ("Score", pb.ScoreRequest(context=text("x")), "continuations"),
        (
            "Score",
            pb.ScoreRequest(context=text("x"), continuations=[pb.Continuation()]),
            "continuations[0]",
        ),
        (
            "Score",
            pb.ScoreRequest(context=text("x"), continuations=[pb.Continuation(text="y" * 513)]),
            "continuations[0]",
        ),
        ("Logits", pb.LogitsRequest(prompt=text("abc"), positions=[3]), "positions"),
        ("Logits", pb.LogitsRequest(prompt=text("abc"), positions=[1, 0]), "positions"),
        ("Tokenize", pb.TokenizeRequest(), "prompt"),
        ("Detokenize", pb.DetokenizeRequest(token_ids=[384]), "token_ids"),
        ("ApplyChatTemplate", pb.ApplyChatTemplateRequest(), "chat.messages"),
        ("Abort", pb.AbortRequest(), "request_id"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_was_found_and_what_is_allowed(
    stub: Stub, method: str, request_: Any, field: str
) -> None:
    def call() -> None:
        answer = getattr(stub, method)(request_)
        if method == "Logits":
            list(answer)

    code, reason, error = error_of(call)
    assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    violations = detail(error, error_details_pb2.BadRequest).field_violations
    assert [violation.field for violation in violations] == [field]
    assert "found" in violations[0].description
    assert "expected" in violations[0].description


def test_a_text_that_is_far_too_long_is_refused_before_it_is_tokenized(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A token of this model is one byte, or one of two marks of four.
    monkeypatch.setattr("jang_runtime._service.texts.in_steps", None)
    for prompt in (
        text("y" * 4 * 513),
        pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="y" * 4 * 513)])),
    ):
        _, _, error = error_of(
            lambda prompt=prompt: stub.Generate(pb.GenerateRequest(prompt=prompt))
        )
        assert "prompt: found 513 or more tokens" in error.details()  # type: ignore[attr-defined]


def test_the_servers_own_limits_hold(limited: tuple[Server, Stub]) -> None:
    _, stub = limited
    for request, field, limit in (
        (pb.GenerateRequest(prompt=text("y" * 101)), "prompt", "100"),
        (pb.GenerateRequest(prompt=text("y"), stopping=long(251)), "stopping.max_tokens", "250"),
    ):
        code, reason, error = error_of(lambda request=request: stub.Generate(request))
        assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        violation = detail(error, error_details_pb2.BadRequest).field_violations[0]
        assert violation.field == field
        assert limit in violation.description
    # Whoever leaves the number to the server gets what is allowed.
    unset = pb.GenerateRequest(prompt=text("y"), stopping=pb.Stopping(ignore_eos=True))
    assert stub.Generate(unset).finished.usage.completion_tokens == 250
    large = pb.GenerateRequest(prompt=text("y" * 2000))
    assert error_of(lambda: stub.Generate(large))[:2] == ("RESOURCE_EXHAUSTED", "")
    # 100 tokens of prompt and 250 of answer are 512 of cache; there are 384.
    both = pb.GenerateRequest(prompt=text("y" * 100), stopping=long())
    code, reason, error = error_of(lambda: stub.Generate(both))
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "CACHE_TOO_SMALL")
    assert detail(error, error_details_pb2.RetryInfo) is None


def test_one_request_too_many_is_told_when_to_come_back(limited: tuple[Server, Stub]) -> None:
    _, stub = limited
    request = pb.GenerateStreamRequest(prompt=text("y"), stopping=long())
    calls = [stub.GenerateStream(request)]
    next(calls[0])
    calls += [stub.GenerateStream(request) for _ in range(2)]
    wait_until(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).load.queued == 2)
    code, reason, error = error_of(lambda: next(stub.GenerateStream(request)))
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    delay = detail(error, error_details_pb2.RetryInfo).retry_delay
    assert 0 < delay.seconds + delay.nanos / 1e9 <= 60
    # The two that waited were not harmed.
    ends = [list(call)[-1].finished.usage.completion_tokens for call in calls]
    assert ends == [250, 250, 250]


def test_a_deadline_and_a_cancel_take_a_request_out_of_the_queue(
    limited: tuple[Server, Stub],
) -> None:
    _, stub = limited
    request = pb.GenerateStreamRequest(
        prompt=text("y"), stopping=long(), sampling=pb.Sampling(temperature=1, top_p=0.5)
    )
    begun = time.monotonic()
    running = stub.GenerateStream(request)
    next(running)
    code, _, _ = error_of(lambda: list(stub.GenerateStream(request, timeout=0.03)))
    assert code == "DEADLINE_EXCEEDED"
    waiting = stub.GenerateStream(request)
    wait_until(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).load.queued == 1)
    waiting.cancel()
    wait_until(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).load.queued == 0)
    took = time.monotonic() - begun
    assert list(running)[-1].finished.usage.completion_tokens == 250
    assert took < time.monotonic() - begun


def test_two_requests_of_one_name_are_not_under_way_together(stub: Stub) -> None:
    metadata = (("x-request-id", "twin"),)
    request = pb.GenerateStreamRequest(prompt=text("y"), stopping=ENDLESS)
    first = stub.GenerateStream(request, metadata=metadata)
    assert next(first).started.request_id == "twin"
    code, reason, _ = error_of(lambda: list(stub.GenerateStream(request, metadata=metadata)))
    assert (code, reason) == ("ALREADY_EXISTS", "REQUEST_ID_IN_USE")
    list(first)
    again = stub.GenerateStream(request, metadata=metadata)
    assert next(again).started.request_id == "twin"
    again.cancel()


def test_a_reader_that_does_not_read_loses_its_request_and_holds_nothing(
    engine: Engine, serving: Serving
) -> None:
    # One stream's window at gRPC is 64 KiB; what does not fit waits in the server.
    options = ServiceOptions(max_unread_bytes=20_000)
    with serving(engine, options) as server:
        channel = grpc.insecure_channel(
            server.address, [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
        )
        with channel:
            stub = Stub(channel)
            request = pb.GenerateStreamRequest(
                prompt=text("y"), stopping=ENDLESS, logprobs=pb.Logprobs(output=20)
            )
            wait_until(lambda: engine.statistics().active == 0)
            before = engine.statistics()
            call = stub.GenerateStream(request)
            wait_until(lambda: engine.statistics().finished > before.finished)
            after = engine.statistics()
            assert after.cancelled == before.cancelled + 1
            assert after.cache_bytes_reserved == 0
            assert after.generated_tokens - before.generated_tokens < 500
            code, reason, _ = error_of(lambda: list(call))
            assert (code, reason) == ("RESOURCE_EXHAUSTED", "SLOW_READER")


def test_logits_that_nobody_reads_are_not_computed(
    engine: Engine, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    original = engine_logits_piece()

    def counted(self: Any, most: int, use: Any) -> int:
        count = original(self, most, use)
        pieces.append(count)
        return count

    # 50 rows a piece, 75 KiB: the first of ten fills the stream's window.
    monkeypatch.setattr("jang_runtime._caches._LOGITS_BYTES", 50 * 384 * 4)
    monkeypatch.setattr("jang_runtime._prefill.Prefill.advance", counted)
    with (
        serving(engine) as server,
        grpc.insecure_channel(
            server.address, [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
        ) as channel,
    ):
        pieces.clear()
        call = Stub(channel).Logits(pb.LogitsRequest(prompt=text("x" * 500)))
        next(call)
        time.sleep(0.5)
        # In gRPC's window, in the call's hands, in the mailbox.
        assert sum(pieces) <= 300
        rows = sum(len(event.rows.positions) for event in call)
        assert rows == sum(pieces) == 500


def engine_logits_piece() -> Any:
    from jang_runtime._prefill import Prefill

    return Prefill.advance


def test_a_long_prompt_does_not_stall_a_stream_that_runs(engine: Engine, serving: Serving) -> None:
    tokens: list[float] = []

    def follow() -> None:
        for event in running:
            tokens.extend([time.monotonic()] * len(event.delta.token_ids))

    with (
        serving(engine, ServiceOptions(delta_seconds=0)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = Stub(channel)
        running = stub.GenerateStream(pb.GenerateStreamRequest(prompt=text("y"), stopping=ENDLESS))
        next(running)
        follower = threading.Thread(target=follow)
        follower.start()
        begun = time.monotonic()
        long_prompt = pb.GenerateStreamRequest(prompt=text("fresh" * 100), stopping=long(1))
        events = stub.GenerateStream(long_prompt)
        next(event for event in events if event.WhichOneof("event") == "delta")
        ended = time.monotonic()
        follower.join()
    # 499 tokens come in pieces of 64, with a token for the other between any two.
    assert len([at for at in tokens if begun < at < ended]) >= 6
    assert len(tokens) == 500
