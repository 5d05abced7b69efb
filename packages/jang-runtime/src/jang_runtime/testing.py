"""A JANG server for tests: real gRPC on a loopback port, without a model and without MLX.

with FakeServer({"What is 2+2?": "4"}) as server, Client(server.address) as client:
    assert client.generate("What is 2+2?").text == "4"
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._errors import JangRuntimeError
from jang_runtime._fake_calls import CallBook, FakeCall
from jang_runtime._fake_model import BEGIN, CONTEXT_LENGTH, END, VOCABULARY_SIZE
from jang_runtime._fake_script import Script
from jang_runtime._fake_servicer import FakeServicer

__all__ = ["FakeCall", "FakeServer"]

# A call keeps a thread while it runs.
_CALLS_AT_ONCE: Final = 64
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["RuntimeService"].full_name


def _echo(question: str) -> str:
    return question


class FakeServer:
    """A server that answers every call of the API after a script; `with` or `async with` starts it.

    Its model has 258 tokens, the bytes and two marks. What it is not told it makes up, always the
    same for the same request: scores, log-probabilities and logits agree with each other. It
    checks of a request what it needs for an answer, and no ranges.

    Args:
        answers: The text of a generation: the same for all, by prompt, or by a function of the
            prompt. Of a conversation the prompt is what was said last. The prompt itself if not
            given. A prompt that a mapping does not have gets UNKNOWN.
        scores: The log-probability of (context, continuation), shared out evenly to the tokens.
        delay: Seconds before an answer, or the first event.
        delta_delay: Seconds after each delta, and each message of logits.
        token: Every call has to bring it, `Client(..., token=...)`.
        model_info: What the model is said to be. Without `has_chat_template` it takes no
            conversations.
        credentials: For TLS.
    """

    def __init__(
        self,
        answers: str | Mapping[str, str] | Callable[[str], str] = _echo,
        *,
        scores: Callable[[str, str], float] | None = None,
        delay: float = 0.0,
        delta_delay: float = 0.0,
        token: str = "",
        model_info: pb.GetModelInfoResponse | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        info = model_info or _model_info()
        script = Script(answers, scores, delay, delta_delay, info)
        self._calls = CallBook(token, info.name)
        self._server = grpc.server(
            ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="fake-server"),
            options=[("grpc.so_reuseport", 0)],
        )
        self._health = cast(Any, health.HealthServicer())
        _add_services(self._server, FakeServicer(script, self._calls), self._health)
        self.set_serving(True)
        self._port = (
            self._server.add_insecure_port("127.0.0.1:0")
            if credentials is None
            else self._server.add_secure_port("127.0.0.1:0", credentials)
        )

    @property
    def address(self) -> str:
        """Where it listens, "127.0.0.1:PORT"."""
        return f"127.0.0.1:{self._port}"

    @property
    def calls(self) -> list[FakeCall]:
        """The calls that it got, in their order; those for health and reflection left out."""
        return self._calls.records()

    def fail(
        self,
        error: JangRuntimeError | grpc.StatusCode,
        *,
        method: str = "",
        times: int = 1,
        after_events: int = 0,
    ) -> None:
        """Let coming calls fail.

        Args:
            error: As the real server would answer it, with all details, such as
                `QueueFullError(limit=8, retry_after=0.05)`; or a bare status, as something in
                between would.
            method: Which calls, such as "GenerateStream"; all if empty.
            times: How many of them.
            after_events: After how many events of a stream.
        """
        self._calls.plan(error, method, times, after_events)

    def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 says; calls are answered all the same."""
        state = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", _SERVICE):
            self._health.set(service, state)

    def wait_until_idle(self, seconds: float = 5.0) -> bool:
        """Wait until no call is under way; returns whether that came to be."""
        return self._calls.wait_until_idle(seconds)

    def start(self) -> None:
        """Begin to answer; `with` does it."""
        self._server.start()

    def stop(self) -> None:
        """End, and all calls with it; `with` does it."""
        self._server.stop(None).wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        # It has threads of its own, and neither start nor end takes long.
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _add_services(server: grpc.Server, servicer: FakeServicer, health_servicer: Any) -> None:
    runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
    cast(Any, health_pb2_grpc).add_HealthServicer_to_server(health_servicer, server)
    names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    cast(Any, reflection).enable_server_reflection(names, server)


def _model_info() -> pb.GetModelInfoResponse:
    return pb.GetModelInfoResponse(
        name="fake",
        architecture="fake",
        profile="JANG_4M",
        bits_per_weight=4.5,
        context_length=CONTEXT_LENGTH,
        vocabulary_size=VOCABULARY_SIZE,
        eos_token_ids=[END],
        has_chat_template=True,
        layout="mlx",
        special_tokens=pb.SpecialTokens(bos=BEGIN, eos=END),
    )
