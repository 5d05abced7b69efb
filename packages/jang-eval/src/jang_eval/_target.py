"""The client's side of jang.runtime.v1: one model behind one address."""

from collections.abc import Generator, Sequence
from functools import cached_property
from time import perf_counter
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from jang_eval._access import Access
from jang_eval._address import check_address
from jang_eval._channel import explained, open_channel
from jang_eval._errors import OptionError, TargetError
from jang_eval._model_info import ModelInfo
from jang_eval._server_answers import (
    Arrivals,
    Completion,
    Room,
    Score,
    ServerInfo,
    finish_reason_of,
    logits_of,
    model_info_of,
    room_of,
    scores_of,
    server_info_of,
)
from jang_proto.runtime.v1 import runtime_pb2, runtime_pb2_grpc

TIMEOUT_SECONDS_MAX = 86400.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


def check_timeout(timeout: float) -> None:
    """Raise OptionError if the seconds to wait for an answer are out of range."""
    if not 0 < timeout <= TIMEOUT_SECONDS_MAX:
        expected = f"seconds above 0, up to {TIMEOUT_SECONDS_MAX:g}"
        raise OptionError(f"timeout: found {timeout:g}, expected {expected}")


# A text, or tokens.
Context: TypeAlias = str | tuple[int, ...]

_OPEN: Final = Access()


class Target:
    """A JANG server, spoken to over gRPC; a context manager.

    Args:
        address: `HOST:PORT`, where an IPv6 host stands in brackets, or `unix:PATH`.
        timeout: Seconds to wait for each answer of the server.
        access: How it is spoken to, and as whom.

    Raises:
        TargetError: The address is none, or a token would go there unencrypted; later, from every
            method: the server is unreachable, takes longer than `timeout`, or refuses.
        OptionError: The timeout is out of range.
    """

    def __init__(self, address: str, *, timeout: float, access: Access = _OPEN) -> None:
        check_address(address)
        check_timeout(timeout)
        access.check(address)
        self.address = address
        self._timeout = timeout
        self._metadata = access.metadata
        self._channel = open_channel(address, access)
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
        return model_info_of(info)

    def most_prompt_tokens(self) -> int:
        """Asks how many tokens a prompt, context or text may have."""
        request = runtime_pb2.GetServerInfoRequest()
        return self._call(self._stub.GetServerInfo, request).limits.max_prompt_tokens

    @cached_property
    def _vocabulary_size(self) -> int:
        return self.model_info().vocabulary_size

    @cached_property
    def room(self) -> Room:
        """How many tokens it takes; asked once."""
        return room_of(self.model_info().context_length, self.most_prompt_tokens())

    def server_info(self) -> ServerInfo:
        """Asks what serves the model."""
        info = self._call(self._stub.GetServerInfo, runtime_pb2.GetServerInfoRequest())
        return server_info_of(info)

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
        return scores_of(scores, continuations, self.address)

    def logits(
        self, context: Context, positions: Sequence[int] = ()
    ) -> Generator[tuple[tuple[int, ...], npt.NDArray[np.float32]]]:
        """Asks for logits after tokens of a text; yields positions and rows `[n, vocabulary]`.

        Args:
            context: The text or its tokens.
            positions: After which tokens, from 0, ascending; all if empty.
        """
        request = runtime_pb2.LogitsRequest(prompt=_prompt(context), positions=positions)
        call = self._stub.Logits(request, timeout=self._timeout, metadata=self._metadata)
        try:
            for event in call:
                if event.WhichOneof("event") == "rows":
                    rows = logits_of(event.rows, self._vocabulary_size, self.address)
                    yield tuple(event.rows.positions), rows
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
        call = self._stub.GenerateStream(request, timeout=self._timeout, metadata=self._metadata)
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
        text: Context,
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
        """Has the model continue a text, or tokens; what is None is left to the server."""
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
            finish_reason=finish_reason_of(response.finished.finish_reason),
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
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _explained(self, error: grpc.RpcError) -> TargetError:
        return explained(error, self.address, self._timeout)


def _prompt(context: Context, *, add_special_tokens: bool = True) -> runtime_pb2.Prompt:
    if isinstance(context, str):
        return runtime_pb2.Prompt(text=context, add_special_tokens=add_special_tokens)
    return runtime_pb2.Prompt(token_ids=runtime_pb2.TokenIds(ids=context))
