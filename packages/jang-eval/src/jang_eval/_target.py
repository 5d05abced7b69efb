"""The client's side of jang.runtime.v1: one model behind one address."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Self, TypeVar

import grpc

from jang_eval._errors import OptionError, TargetError
from jang_eval._results import ModelInfo
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
        _check_address(address)
        if not 0 < timeout <= TIMEOUT_SECONDS_MAX:
            expected = f"seconds above 0, up to {TIMEOUT_SECONDS_MAX:g}"
            raise OptionError(f"timeout: found {timeout:g}, expected {expected}")
        self.address = address
        self._timeout = timeout
        # A proxy in the environment is meant for the web, not for the machine in the next room.
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._stub = runtime_pb2_grpc.RuntimeServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        )

    def complete_chat(self, message: str, *, max_tokens: int, temperature: float) -> Completion:
        """Sends one message of a user and returns the model's reply."""
        messages = [runtime_pb2.ChatMessage(role="user", content=message)]
        prompt = runtime_pb2.Prompt(chat=runtime_pb2.Chat(messages=messages))
        return self._complete(prompt, (), max_tokens, temperature)

    def complete_text(
        self, text: str, *, stop_strings: Sequence[str], max_tokens: int, temperature: float
    ) -> Completion:
        """Has the model continue a text."""
        prompt = runtime_pb2.Prompt(text=text)
        return self._complete(prompt, stop_strings, max_tokens, temperature)

    def _complete(
        self,
        prompt: runtime_pb2.Prompt,
        stop_strings: Sequence[str],
        max_tokens: int,
        temperature: float,
    ) -> Completion:
        request = runtime_pb2.GenerateRequest(
            prompt=prompt,
            sampling=runtime_pb2.Sampling(temperature=temperature),
            stopping=runtime_pb2.Stopping(max_tokens=max_tokens, stop_strings=stop_strings),
        )
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
            template = _EXPLANATIONS.get(error.code(), _REFUSAL)
            message = template.format(
                code=error.code().name, details=error.details(), timeout=self._timeout
            )
            # Details come from outside, in as many lines as they like.
            raise TargetError(" ".join(f"server {self.address}: {message}".split())) from error


_EXPLANATIONS = {
    grpc.StatusCode.UNAVAILABLE: "not reachable ({details}), expected a JANG server there",
    grpc.StatusCode.DEADLINE_EXCEEDED: "found no answer after {timeout:g} s, expected one in time",
    grpc.StatusCode.UNIMPLEMENTED: "found another service ({details}), expected jang.runtime.v1",
}
_REFUSAL = "found {code} ({details}), expected an answer"

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_PORT_MAX = 65535


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match.group(1)) <= _PORT_MAX:
        raise TargetError(
            f"bad address: found {address!r}, expected HOST:PORT such as localhost:50051"
        )


def _finish_reason(value: int) -> str:
    """Names the reason as the API does; a newer server may know more of them than this client."""
    known = runtime_pb2.FinishReason.DESCRIPTOR.values_by_number.get(value)
    return known.name.removeprefix("FINISH_REASON_").lower() if known else f"unknown ({value})"
