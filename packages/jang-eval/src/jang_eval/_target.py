"""The client's side of jang.runtime.v1: one model behind one address."""

import json
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar, cast

import grpc
import numpy as np
import numpy.typing as npt

from jang_eval._address import check_address
from jang_eval._errors import OptionError, TargetError
from jang_eval._model_info import ModelInfo, PlanRow, SpecialTokens
from jang_proto.runtime.v1 import runtime_pb2, runtime_pb2_grpc

TIMEOUT_SECONDS_MAX = 86400.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True)
class Completion:
    """What the model answered, and what it cost; the seconds are those the caller waited."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Score:
    """How likely a continuation was: natural logarithms of the whole and of its tokens."""

    logprob: float
    token_logprobs: tuple[float, ...]
    token_ids: tuple[int, ...]
    is_greedy: bool


@dataclass(frozen=True)
class ServerInfo:
    """What the server says of itself; zeros and empty texts where it does not know.

    Attributes:
        version: Of jang-runtime.
        backend: What computes, such as "cpu (AVX-512, 2 threads)".
        ranks: Processes that share the model.
        load_seconds: How long the model took to load and answer for the first time.
        peak_memory_bytes: The most that MLX has held.
        resident_bytes: Of the server's process, in memory now.
    """

    version: str
    backend: str
    ranks: int
    load_seconds: float
    peak_memory_bytes: int
    resident_bytes: int


@dataclass(frozen=True)
class Arrivals:
    """When the tokens of an answer came.

    Attributes:
        times: Of each message with tokens, by `time.perf_counter`.
        counts: Tokens in each of them.
    """

    times: tuple[float, ...]
    counts: tuple[int, ...]


def check_timeout(timeout: float) -> None:
    """Raise OptionError if the seconds to wait for an answer are out of range."""
    if not 0 < timeout <= TIMEOUT_SECONDS_MAX:
        expected = f"seconds above 0, up to {TIMEOUT_SECONDS_MAX:g}"
        raise OptionError(f"timeout: found {timeout:g}, expected {expected}")


# A text, or tokens.
Context: TypeAlias = str | tuple[int, ...]

# gRPC's own retries. Where the server says how long to wait, or not to ask again, in
# `grpc-retry-pushback-ms`, that is what they do; 5 is the most that gRPC allows.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "jang.runtime.v1.RuntimeService"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "10s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)
_CHANNEL_OPTIONS: Final = [
    # A proxy in the environment is meant for the web, not for the machine in the next room.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", _SERVICE_CONFIG),
    # A row of logits is as long as the vocabulary.
    ("grpc.max_receive_message_length", 64 * 2**20),
]


class Target:
    """A JANG server, spoken to over gRPC without encryption; a context manager.

    Args:
        address: `HOST:PORT`; an IPv6 host stands in brackets.
        timeout: Seconds to wait for each answer of the server.

    Raises:
        TargetError: The address is none; later, from every method: the server is unreachable,
            takes longer than `timeout`, or refuses.
        OptionError: The timeout is out of range.
    """

    def __init__(self, address: str, *, timeout: float) -> None:
        check_address(address)
        check_timeout(timeout)
        self.address = address
        self._timeout = timeout
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = runtime_pb2_grpc.RuntimeServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take back what is asked, in other threads too, and ask nothing more."""
        self._channel.close()

    def model_info(self) -> ModelInfo:
        """Asks what model the server holds."""
        info = self._call(self._stub.GetModelInfo, runtime_pb2.GetModelInfoRequest())
        return ModelInfo(
            name=info.name,
            architecture=info.architecture,
            profile=info.profile,
            bits_per_weight=info.bits_per_weight,
            weight_bytes=info.weight_bytes,
            context_length=info.context_length,
            vocabulary_size=info.vocabulary_size,
            eos_token_ids=tuple(info.eos_token_ids),
            has_chat_template=info.has_chat_template,
            source_name=info.source_name,
            source_quantization=info.source_quantization,
            digest=info.digest,
            layout=info.layout,
            special_tokens=SpecialTokens(
                **{
                    name: getattr(info.special_tokens, name)
                    for name in ("bos", "eos", "pad", "unknown")
                    if info.special_tokens.HasField(name)
                }
            ),
            parameters=info.parameters,
            bits_per_weight_without_embeddings=info.bits_per_weight_without_embeddings,
            plan=tuple(
                PlanRow(
                    role=row.role,
                    bits=row.bits if row.HasField("bits") else None,
                    group_size=row.group_size if row.HasField("group_size") else None,
                    modules=row.modules,
                    parameters=row.parameters,
                    bytes=row.bytes,
                )
                for row in info.plan
            ),
            plan_digest=info.plan_digest,
        )

    def most_prompt_tokens(self) -> int:
        """Asks how many tokens a prompt, context or text may have."""
        request = runtime_pb2.GetServerInfoRequest()
        return self._call(self._stub.GetServerInfo, request).limits.max_prompt_tokens

    def server_info(self) -> ServerInfo:
        """Asks what serves the model."""
        info = self._call(self._stub.GetServerInfo, runtime_pb2.GetServerInfoRequest())
        return ServerInfo(
            version=info.version,
            backend=info.backend,
            ranks=info.ranks,
            load_seconds=info.load_seconds,
            peak_memory_bytes=info.load.peak_memory_bytes,
            resident_bytes=info.load.resident_bytes,
        )

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """Asks for the tokens of a text."""
        prompt = runtime_pb2.Prompt(text=text, add_special_tokens=add_special_tokens)
        request = runtime_pb2.TokenizeRequest(prompt=prompt)
        return tuple(self._call(self._stub.Tokenize, request).token_ids)

    def apply_chat_template(self, messages: Sequence[tuple[str, str]]) -> str:
        """Asks for the text that the model reads of a conversation, up to where it is its turn.

        Args:
            messages: Who speaks ("system", "user", "assistant") and what is said; at least one.
        """
        chat = runtime_pb2.Chat(
            messages=[
                runtime_pb2.ChatMessage(role=role, content=content) for role, content in messages
            ]
        )
        request = runtime_pb2.ApplyChatTemplateRequest(chat=chat)
        return self._call(self._stub.ApplyChatTemplate, request).text

    def score(
        self,
        context: Context,
        continuations: Sequence[Context],
        *,
        add_special_tokens: bool = True,
    ) -> tuple[Score, ...]:
        """Asks how likely texts, or tokens, are after a context.

        A text after a text is tokenized as the end of both together, as lm-evaluation-harness does.
        """
        request = runtime_pb2.ScoreRequest(
            context=_prompt(context, add_special_tokens=add_special_tokens),
            continuations=[
                runtime_pb2.Continuation(text=each)
                if isinstance(each, str)
                else runtime_pb2.Continuation(token_ids=runtime_pb2.TokenIds(ids=each))
                for each in continuations
            ],
        )
        scores = self._call(self._stub.Score, request).scores
        for score in scores:
            if not math.isfinite(score.logprob):
                found = f"a score of {score.logprob}, expected a finite one"
                raise TargetError(f"server {self.address}: found {found}")
        return tuple(
            Score(
                logprob=score.logprob,
                token_logprobs=tuple(score.token_logprobs),
                token_ids=tuple(score.token_ids),
                is_greedy=score.is_greedy,
            )
            for score in scores
        )

    def logits(
        self, context: Context, positions: Sequence[int] = ()
    ) -> Generator[tuple[tuple[int, ...], npt.NDArray[np.float32]]]:
        """Asks for logits after tokens of a text; yields positions and rows `[n, vocabulary]`.

        Args:
            context: The text or its tokens.
            positions: After which tokens, from 0, ascending; all if empty.
        """
        request = runtime_pb2.LogitsRequest(prompt=_prompt(context), positions=positions)
        call = self._stub.Logits(request, timeout=self._timeout)
        try:
            for event in call:
                if event.WhichOneof("event") == "rows":
                    rows = np.frombuffer(event.rows.values, "<f4")
                    yield (
                        tuple(event.rows.positions),
                        rows.reshape(-1, event.rows.vocabulary_size),
                    )
        except grpc.RpcError as error:
            raise self._explained(error) from error
        finally:
            call.cancel()

    def arrivals(self, prompt: tuple[int, ...], count: int) -> Arrivals:
        """Has the model write `count` tokens after a prompt, and notes when they come."""
        request = runtime_pb2.GenerateStreamRequest(
            prompt=_prompt(prompt),
            stopping=runtime_pb2.Stopping(max_tokens=count, ignore_eos=True),
        )
        call = self._stub.GenerateStream(request, timeout=self._timeout)
        times: list[float] = []
        counts: list[int] = []
        try:
            for event in call:
                if event.WhichOneof("event") == "delta" and event.delta.token_ids:
                    times.append(perf_counter())
                    counts.append(len(event.delta.token_ids))
        except grpc.RpcError as error:
            raise self._explained(error) from error
        finally:
            call.cancel()
        if sum(counts) != count:
            raise TargetError(
                f"server {self.address}: found an answer of {sum(counts)} tokens, expected {count}"
            )
        return Arrivals(tuple(times), tuple(counts))

    def complete_chat(self, message: str, *, max_tokens: int, temperature: float) -> Completion:
        """Sends one message of a user and returns the model's reply."""
        messages = [runtime_pb2.ChatMessage(role="user", content=message)]
        prompt = runtime_pb2.Prompt(chat=runtime_pb2.Chat(messages=messages))
        request = runtime_pb2.GenerateRequest(
            prompt=prompt,
            sampling=runtime_pb2.Sampling(temperature=temperature),
            stopping=runtime_pb2.Stopping(max_tokens=max_tokens),
        )
        return self._complete(request)

    def complete_text(
        self,
        text: str,
        *,
        stop_strings: Sequence[str],
        max_tokens: int,
        temperature: float,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        add_special_tokens: bool = True,
    ) -> Completion:
        """Has the model continue a text; what is None is left to the server."""
        request = runtime_pb2.GenerateRequest(
            prompt=_prompt(text, add_special_tokens=add_special_tokens),
            sampling=runtime_pb2.Sampling(
                temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed
            ),
            stopping=runtime_pb2.Stopping(max_tokens=max_tokens, stop_strings=stop_strings),
        )
        return self._complete(request)

    def _complete(self, request: runtime_pb2.GenerateRequest) -> Completion:
        start = perf_counter()
        response = self._call(self._stub.Generate, request)
        seconds = perf_counter() - start
        usage = response.finished.usage
        return Completion(
            text=response.text,
            finish_reason=_finish_reason(response.finished.finish_reason),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=round(seconds, 6),
        )

    def _call(
        self,
        # In quotes: the class takes type arguments only in its stubs.
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
    ) -> _Response:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _explained(self, error: grpc.RpcError) -> TargetError:
        # Every error of a call carries a status; grpc's types say so only for the call.
        code, details = cast(Any, error).code(), cast(Any, error).details()
        template = _EXPLANATIONS.get(code, _REFUSAL)
        message = template.format(code=code.name, details=details, timeout=self._timeout)
        # Details come from outside, in as many lines as they like.
        return TargetError(" ".join(f"server {self.address}: {message}".split()))


def _prompt(context: Context, *, add_special_tokens: bool = True) -> runtime_pb2.Prompt:
    if isinstance(context, str):
        return runtime_pb2.Prompt(text=context, add_special_tokens=add_special_tokens)
    return runtime_pb2.Prompt(token_ids=runtime_pb2.TokenIds(ids=context))


_EXPLANATIONS = {
    grpc.StatusCode.UNAVAILABLE: "not reachable ({details}), expected a JANG server there",
    grpc.StatusCode.DEADLINE_EXCEEDED: "found no answer after {timeout:g} s, expected one in time",
    grpc.StatusCode.UNIMPLEMENTED: "found another service ({details}), expected jang.runtime.v1",
}
_REFUSAL = "found {code} ({details}), expected an answer"


def _finish_reason(value: int) -> str:
    """Names the reason as the API does; a newer server may know more of them than this client."""
    known = runtime_pb2.FinishReason.DESCRIPTOR.values_by_number.get(value)
    return known.name.removeprefix("FINISH_REASON_").lower() if known else f"unknown ({value})"
