"""Both clients, and the fake server that users test with: real gRPC, no model."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime import (
    AsyncClient,
    CacheTooSmallError,
    Client,
    ClientOptionError,
    EngineStoppedError,
    InvalidMetadataError,
    InvalidRequestError,
    NotServingError,
    QueueFullError,
    RetryPolicy,
    ServerError,
    SlowReaderError,
)
from jang_runtime._connections import ClientOptions, connection
from jang_runtime.testing import FakeServer

QUICK = RetryPolicy(tries=4, first_delay=0.01)
TOKEN = "a-token-of-some-length"


class Asker:
    """Calls a method of one of the two clients, to the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(
        self,
        server: FakeServer | str,
        method: str,
        *arguments: Any,
        client: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        target = server if isinstance(server, str) else server.address
        given = {"retries": QUICK} | (client or {})
        if self.kind == "asyncio":
            return asyncio.run(self._ask_async(target, given, method, arguments, options))
        with Client(target, **given) as blocking:
            answer = getattr(blocking, method)(*arguments, **options)
            return list(answer) if isinstance(answer, Generator) else answer

    async def _ask_async(
        self, target: str, given: Any, method: str, arguments: Any, options: Any
    ) -> Any:
        async with AsyncClient(target, **given) as client:
            answer = getattr(client, method)(*arguments, **options)
            if isinstance(answer, AsyncGenerator):
                return [event async for event in answer]
            return await answer


@pytest.fixture(params=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param)


def test_every_call_of_the_api_has_a_method(ask: Asker) -> None:
    with FakeServer({"2+2?": "It is 4.", "hi": "Hello."}) as server:
        ask(server, "wait_until_ready")
        assert ask(server, "health") == "SERVING"
        events = ask(server, "stream", [("system", "Be brief."), ("user", "2+2?")])
        assert [event.WhichOneof("event") for event in events] == [
            "started",
            *["delta"] * 3,
            "finished",
        ]
        assert ask(server, "stream_text", "2+2?") == ["It", " is", " 4."]
        assert ask(server, "generate", "hi").text == "Hello."
        assert ask(server, "tokenize", "hi") == [106, 107]
        assert ask(server, "detokenize", [0, 106, 107]) == "hi"
        assert ask(server, "detokenize", [0, 106], skip_special_tokens=False) == "<s>h"
        chat = ask(server, "apply_chat_template", [("user", "hi")])
        assert chat.text == "user: hi\nassistant: "
        plain = ask(server, "apply_chat_template", [("user", "hi")], add_generation_prompt=False)
        assert plain.text == "user: hi\n"
        assert ask(server, "model_info").vocabulary_size == 258
        assert [model.name for model in ask(server, "list_models")] == ["fake"]
        assert ask(server, "server_info").ranks == 1
        assert ask(server, "abort", "nobody") is False
        assert ask(server, "score", "2+2=", ["4"])[0].token_ids == [54]
        assert ask(server, "logits", [5, 6])[0].positions == (0, 1)
        called = {call.method for call in server.calls}
        service = pb.DESCRIPTOR.services_by_name["RuntimeService"]
        assert called == {method.name for method in service.methods}
        assert {call.outcome for call in server.calls} == {"OK"}


def test_a_prompt_is_text_a_conversation_tokens_or_a_message(ask: Asker) -> None:
    with FakeServer("yes") as server:
        for prompt in ("hi", [("user", "hi")], [106, 107], pb.Prompt(text="hi")):
            ask(server, "generate", prompt, stopping=pb.Stopping(max_tokens=2))
        sent = [call.request.prompt for call in server.calls]  # type: ignore[attr-defined]
        assert sent == [
            pb.Prompt(text="hi"),
            pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])),
            pb.Prompt(token_ids=pb.TokenIds(ids=[106, 107])),
            pb.Prompt(text="hi"),
        ]


def test_scores_logits_and_log_probabilities_agree(ask: Asker) -> None:
    with FakeServer("bc") as server:
        (text, tokens) = ask(server, "score", "a", ["bc", [100, 101]])
        assert text == tokens
        rows = ask(server, "logits", "abc", [0, 1])
        values = np.concatenate([chunk.values for chunk in rows])
        assert values.dtype == np.float32
        assert values.shape == (2, 258)
        expected = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
        np.testing.assert_allclose(
            text.token_logprobs, [expected[0, 100], expected[1, 101]], rtol=1e-5
        )
        assert text.logprob == pytest.approx(sum(text.token_logprobs))
        answer = ask(server, "generate", "a", logprobs=pb.Logprobs(output=2, prompt=0))
        assert [entry.logprob for entry in answer.logprobs] == list(text.token_logprobs)
        assert answer.logprobs[0].top[0].token_id == int(values[0].argmax())
        own = values[[0, 1], [100, 101]][:, None]
        ranks = list(1 + (values > own).sum(axis=1))
        assert [entry.rank for entry in answer.logprobs] == ranks
        assert ask(server, "score", "a ", ["b"]) == ask(server, "score", "a", [" b"])


def test_all_logits_come_in_several_messages(ask: Asker) -> None:
    with FakeServer() as server:
        chunks = ask(server, "logits", "x" * 40)
        assert [len(chunk.positions) for chunk in chunks] == [16, 16, 8]
        assert [position for chunk in chunks for position in chunk.positions] == list(range(40))


def test_a_queue_that_is_full_is_asked_again_after_the_time_that_it_names(ask: Asker) -> None:
    for method in ("generate", "stream"):
        with FakeServer() as server:
            server.fail(QueueFullError(limit=8, retry_after=0.1), times=2)
            begun = time.monotonic()
            assert ask(server, method, "hi")
            assert time.monotonic() - begun >= 0.2
            outcomes = [call.outcome for call in server.calls]
            assert outcomes == ["RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "OK"]


def test_a_server_that_cannot_be_reached_for_a_moment_is_asked_again(ask: Asker) -> None:
    with FakeServer() as server:
        server.fail(grpc.StatusCode.UNAVAILABLE, times=2)
        server.fail(NotServingError("loading", retry_after=0.01))
        assert ask(server, "tokenize", "a") == [99]
        assert len(server.calls) == 4


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (CacheTooSmallError("too long"), "RESOURCE_EXHAUSTED", "CACHE_TOO_SMALL"),
        (SlowReaderError("too slow"), "RESOURCE_EXHAUSTED", "SLOW_READER"),
        (InvalidRequestError("prompt", "x", "y"), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ],
)
def test_what_does_not_pass_is_asked_once(
    ask: Asker, error: Exception, code: str, reason: str
) -> None:
    for method in ("generate", "stream"):
        with FakeServer() as server:
            server.fail(error, times=9)  # type: ignore[arg-type]
            with pytest.raises(ServerError) as caught:
                ask(server, method, "hi")
            assert (caught.value.code, caught.value.reason) == (code, reason)
            assert len(server.calls) == 1


def test_the_number_of_tries_is_bounded_and_the_last_error_is_told(ask: Asker) -> None:
    with FakeServer() as server:
        server.fail(EngineStoppedError("the engine has ended"), times=9)
        with pytest.raises(ServerError, match="UNAVAILABLE: the engine has ended") as caught:
            ask(server, "generate", "hi")
        assert caught.value.reason == "ENGINE_STOPPED"
        assert len(server.calls) == 4
        with pytest.raises(ServerError):
            ask(server, "generate", "hi", client={"retries": RetryPolicy(tries=1)})
        assert len(server.calls) == 5


def test_a_stream_that_has_begun_is_not_asked_for_again(ask: Asker) -> None:
    with FakeServer("one two three") as server:
        server.fail(EngineStoppedError("the engine has ended"), after_events=2)
        with pytest.raises(ServerError, match="the engine has ended"):
            ask(server, "stream", "hi")
        assert [call.outcome for call in server.calls] == ["UNAVAILABLE"]


def test_an_error_says_what_a_program_needs_to_know(ask: Asker) -> None:
    with FakeServer() as server:
        server.fail(QueueFullError(limit=8, retry_after=60.0))
        with pytest.raises(ServerError) as caught:
            ask(server, "generate", "hi", request_id="mine-1")
        error = caught.value
        assert str(error) == (
            f"{server.address}: RESOURCE_EXHAUSTED: "
            "queue: found it full, expected at most 8 requests in it"
        )
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert (error.retry_after, error.request_id, error.field) == (60.0, "mine-1", "")
        with pytest.raises(ServerError) as caught:
            ask(server, "detokenize", [5, 999])
        assert caught.value.field == "token_ids"
        assert caught.value.retry_after is None
        # The server invented a name, and sent it along.
        assert caught.value.request_id == server.calls[-1].request_id != ""


def test_nobody_waits_for_a_try_that_the_deadline_does_not_allow(ask: Asker) -> None:
    for method in ("generate", "stream"):
        with FakeServer() as server:
            server.fail(QueueFullError(limit=8, retry_after=20.0))
            begun = time.monotonic()
            with pytest.raises(ServerError) as caught:
                ask(server, method, "hi", timeout=15)
            assert caught.value.reason == "QUEUE_FULL"
            assert time.monotonic() - begun < 15
            assert len(server.calls) == 1


def test_a_call_ends_at_its_own_deadline_or_else_at_the_clients(ask: Asker) -> None:
    with FakeServer(delay=0.4) as server:
        for client, options in (({}, {"timeout": 0.1}), ({"timeout": 0.1}, {})):
            for method in ("generate", "stream"):
                with pytest.raises(ServerError) as caught:
                    ask(server, method, "hi", client=client, **options)
                assert caught.value.code == "DEADLINE_EXCEEDED"
        assert ask(server, "generate", "hi", client={"timeout": 0.1}, timeout=None).text == "hi"
        assert server.wait_until_idle()
        outcomes = {call.outcome for call in server.calls[:-1]}
        assert outcomes <= {"DEADLINE_EXCEEDED", "CANCELLED"}


def test_closing_the_generator_cancels_the_call() -> None:
    endless = pb.Stopping(max_tokens=4000, ignore_eos=True)
    with FakeServer("and on ", delta_delay=0.01) as server, Client(server.address) as client:
        for event in client.stream("hi", stopping=endless):
            if event.HasField("delta"):
                break
        assert server.wait_until_idle()
        texts = client.stream_text("hi", stopping=endless)
        assert next(texts) == "and"
        texts.close()
        assert server.wait_until_idle()
        logits = client.logits("x" * 1000)
        next(logits)
        logits.close()
        assert server.wait_until_idle()
        assert [call.outcome for call in server.calls] == ["CANCELLED"] * 3


def test_closing_the_generator_or_cancelling_the_task_cancels_the_call_of_asyncio() -> None:
    endless = pb.Stopping(max_tokens=4000, ignore_eos=True)

    async def read_all(client: AsyncClient, begun: asyncio.Event) -> None:
        async for _ in client.stream_text("hi", stopping=endless):
            begun.set()

    async def run() -> None:
        async with (
            FakeServer("and on ", delta_delay=0.01) as server,
            AsyncClient(server.address) as client,
        ):
            async with aclosing(client.stream_text("hi", stopping=endless)) as texts:
                assert await anext(texts) == "and"
            assert await asyncio.to_thread(server.wait_until_idle)
            begun = asyncio.Event()
            task = asyncio.create_task(read_all(client, begun))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.wait_until_idle)
            assert [call.outcome for call in server.calls] == ["CANCELLED"] * 2

    asyncio.run(run())


def test_many_calls_of_asyncio_run_at_once() -> None:
    async def run() -> list[str]:
        async with (
            FakeServer(delay=0.5) as server,
            AsyncClient(server.address, timeout=30) as client,
        ):
            answers = [client.generate(f"number {index}") for index in range(20)]
            return [answer.text for answer in await asyncio.gather(*answers)]

    begun = time.monotonic()
    assert asyncio.run(run()) == [f"number {index}" for index in range(20)]
    # One after the other takes ten.
    assert time.monotonic() - begun < 8


def test_an_aborted_request_ends_with_what_it_has() -> None:
    endless = pb.Stopping(max_tokens=4000, ignore_eos=True)
    with FakeServer("and on ", delta_delay=0.01) as server, Client(server.address) as client:
        events = client.stream("hi", stopping=endless, request_id="mine")
        next(events)
        assert client.abort("mine")
        assert list(events)[-1].finished.finish_reason == pb.FINISH_REASON_CANCELLED
        assert server.wait_until_idle()
        assert not client.abort("mine")


def test_name_and_trace_of_a_request_go_along(ask: Asker) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with FakeServer() as server:
        (started, *_) = ask(server, "stream", "hi", request_id="mine", traceparent=trace)
        assert started.started.request_id == "mine"
        (call,) = server.calls
        assert call.metadata["x-request-id"] == "mine"
        assert call.metadata["traceparent"] == trace
        with pytest.raises(ServerError) as caught:
            ask(server, "generate", "hi", request_id="of two words")
        assert (caught.value.reason, caught.value.field) == ("INVALID_METADATA", "x-request-id")
        with pytest.raises(InvalidMetadataError, match="x-request-id: found 'a\\\\nb', expected"):
            ask(server, "generate", "hi", request_id="a\nb")


def test_the_token_goes_with_every_call(ask: Asker) -> None:
    with FakeServer(token=TOKEN) as server:
        assert ask(server, "generate", "hi", client={"token": TOKEN}).text == "hi"
        for client, reason in (({}, "TOKEN_MISSING"), ({"token": "other"}, "TOKEN_UNKNOWN")):
            with pytest.raises(ServerError) as caught:
                ask(server, "generate", "hi", client=client)
            assert (caught.value.code, caught.value.reason) == ("UNAUTHENTICATED", reason)


def test_a_token_is_not_sent_in_the_clear_beyond_this_machine(ask: Asker) -> None:
    for target in ("example.com:443", "10.0.0.1:50051", "ipv4:127.0.0.1:1,10.0.0.1:1"):
        with pytest.raises(ClientOptionError) as caught:
            ask(target, "model_info", client={"token": TOKEN})
        assert str(caught.value).startswith(f"token: found a plaintext connection to {target}, ")
        assert TOKEN not in str(caught.value)
    for target in ("localhost:1", "[::1]:1", "127.0.0.2:1", "dns:///localhost:1", "unix:/x"):
        Client(target, token=TOKEN).close()
    Client("example.com:443", token=TOKEN, tls=True).close()
    # Tools that show variables of a failure show these.
    options: ClientOptions = {"token": TOKEN}
    assert TOKEN not in repr(connection("localhost:1", None, options))
    with pytest.raises(ClientOptionError, match="token: found one that cannot be sent"):
        Client("localhost:1", token="a\nb")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_tls_checks_the_server_and_shows_it_the_clients_certificate(
    ask: Asker, authority: trustme.CA, tmp_path: Path
) -> None:
    server_side = authority.issue_cert("127.0.0.1")
    client_side = authority.issue_cert("client.example")
    root = authority.cert_pem.bytes()
    chain = b"".join(blob.bytes() for blob in server_side.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(server_side.private_key_pem.bytes(), chain)], root, require_client_auth=True
    )
    file = tmp_path / "client.key"
    client_side.private_key_pem.write_to_path(file)
    ours = {
        "certificate": client_side.cert_chain_pems[0].bytes(),
        "private_key": file,
        "root_certificates": root,
        "token": TOKEN,
    }
    with FakeServer(credentials=credentials, token=TOKEN) as server:
        assert ask(server, "generate", "hi", client=ours).text == "hi"
        once = {"retries": RetryPolicy(tries=1)}
        for client in ({}, {"tls": True}, {"root_certificates": root}):
            with pytest.raises(ServerError, match="UNAVAILABLE"):
                ask(server, "generate", "hi", client=client | once, timeout=5)
        assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"certificate": b"x"}, "certificate, private_key: found one of them, expected both"),
        (
            {"tls": False, "root_certificates": b"x"},
            "tls: found False beside root_certificates, expected True",
        ),
        (
            {"root_certificates": "/nowhere.pem"},
            "root_certificates: /nowhere.pem: No such file or directory, expected a file",
        ),
        ({"root_certificates": __file__}, "found no PEM data, expected some"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientOptionError) as caught:
        Client("localhost:1", **options)
    assert str(caught.value).endswith(message)


def test_waiting_ends_when_the_server_serves(ask: Asker) -> None:
    with FakeServer() as server:
        server.set_serving(False)
        with pytest.raises(ServerError, match=r"not serving within 0.5 seconds: found NOT_SERV"):
            ask(server, "wait_until_ready", 0.5)
        server.set_serving(True)
        ask(server, "wait_until_ready", 5)
    with pytest.raises(ServerError, match=r"no answer within 0.5 seconds \(.*refused"):
        ask("127.0.0.1:1", "wait_until_ready", 0.5)


def test_the_fake_server_cuts_answers_as_a_model_does(ask: Asker) -> None:
    with FakeServer("Grüße an alle") as server:
        for stopping, text, reason in (
            (pb.Stopping(), "Grüße an alle", pb.FINISH_REASON_EOS),
            (pb.Stopping(max_tokens=3), "Gr", pb.FINISH_REASON_MAX_TOKENS),
            (pb.Stopping(stop_strings=["all", "an"]), "Grüße ", pb.FINISH_REASON_STOP_STRING),
            (pb.Stopping(stop_token_ids=[34]), "Grüße", pb.FINISH_REASON_STOP_TOKEN),
            (pb.Stopping(max_tokens=9, ignore_eos=True), "Grüße a", pb.FINISH_REASON_MAX_TOKENS),
        ):
            answer = ask(server, "generate", "hi", stopping=stopping)
            assert (answer.text, answer.finished.finish_reason) == (text, reason)
            assert ask(server, "detokenize", answer.token_ids) == text
            assert answer.finished.usage.completion_tokens == len(answer.token_ids)


def test_the_fake_server_scores_as_it_is_told(ask: Asker) -> None:
    def score(context: str, continuation: str) -> float:
        assert context == "2+2="
        return -0.5 if continuation == "4" else -9.0

    with FakeServer(scores=score) as server:
        right, wrong = ask(server, "score", "2+2=", ["4", "five"])
        assert (right.logprob, right.is_greedy) == (-0.5, True)
        assert (wrong.logprob, wrong.is_greedy) == (-9.0, False)
        assert list(wrong.token_logprobs) == [-9.0 / 4] * 4


def test_a_prompt_without_an_answer_is_a_mistake_of_the_test(ask: Asker) -> None:
    with FakeServer({"hi": "Hello."}) as server:
        with pytest.raises(ServerError, match="UNKNOWN.*no answer to 'ho'"):
            ask(server, "generate", "ho")
        assert server.calls[0].outcome == "UNKNOWN"
        assert server.wait_until_idle()


def test_clients_and_fake_server_come_without_mlx() -> None:
    program = (
        "import sys, jang_runtime.testing\n"
        "print(sorted({'mlx', 'mlx_lm', 'transformers'} & set(sys.modules)))\n"
        "jang_runtime.Engine\n"
        "print('mlx' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout == "[]\nTrue\n"
