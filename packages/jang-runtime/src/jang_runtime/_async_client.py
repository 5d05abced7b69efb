"""A client for asyncio programs that call a JANG server; the twin of `_client`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._call_errors import server_error
from jang_runtime._calls import (
    HEALTH_CHECK,
    POLL_SECONDS,
    READY_SECONDS,
    Conversation,
    PromptLike,
    chat_message,
    health_name,
    is_ready,
    logits_of,
    not_ready,
    parse_health,
    prompt_message,
    score_request,
    serialize_health,
)
from jang_runtime._connections import CHANNEL_OPTIONS, CallOptions, ClientOptions, connection
from jang_runtime._errors import ServerError
from jang_runtime._events import Logits

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """Talks to one server; use as an asynchronous context manager, or await `close`.

    It belongs to the event loop that runs when it is made. A generator that is left before its
    end, such as by `break`, has to be closed, best by `contextlib.aclosing`; cancelling the task
    that waits for it closes it too.

    Every method takes the options of `CallOptions` too, and raises `ServerError` with the
    server's own words, and `InvalidMetadataError` for a `request_id` or `traceparent` that cannot
    be sent. A prompt is plain text, a conversation as (role, content), tokens, or a `pb.Prompt`.

    Args:
        target: "HOST:PORT".
        timeout: Seconds that a call may take; None waits for as long as it takes.
        **options: Token, TLS, retries and model, see `ClientOptions`.

    Raises:
        ClientOptionError: If the options do not go together.
    """

    def __init__(
        self, target: str, timeout: float | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        self._connection = connection(target, timeout, options)
        self._model = self._connection.model
        # Said here, and not by a call that waits for the answer on another loop.
        asyncio.get_running_loop()
        credentials = self._connection.credentials
        self._channel = (
            grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
        )
        self._stub = runtime_pb2_grpc.RuntimeServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the server serves.

        Raises:
            ServerError: If it does not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                health = await self._check(max(deadline - time.monotonic(), 0.0))
            except ServerError as error:
                health = error
            if is_ready(health):
                return
            if time.monotonic() + POLL_SECONDS >= deadline:
                raise not_ready(self._connection.target, seconds, health)
            await asyncio.sleep(POLL_SECONDS)

    async def health(self) -> str:
        """What the server says of itself: "SERVING", or "NOT_SERVING"."""
        return await self._check(self._connection.timeout)

    def stream(
        self,
        prompt: PromptLike,
        *,
        sampling: pb.Sampling | None = None,
        stopping: pb.Stopping | None = None,
        logprobs: pb.Logprobs | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[pb.GenerateStreamResponse]:
        """Generate, yielding the events as they come; closing the generator stops the server.

        Args:
            prompt: What the model continues.
            sampling: How the next token is chosen; the server's defaults if None.
            stopping: When to stop; the server's defaults if None.
            logprobs: Which log-probabilities come along; none if None.
            **options: Of this call.
        """
        request = pb.GenerateStreamRequest(
            prompt=prompt_message(prompt),
            sampling=sampling,
            stopping=stopping,
            logprobs=logprobs,
            model=self._model,
        )
        return self._stream(self._stub.GenerateStream, request, options)

    async def stream_text(
        self,
        prompt: PromptLike,
        *,
        sampling: pb.Sampling | None = None,
        stopping: pb.Stopping | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[str]:
        """Generate, yielding the text as it comes; arguments and closing as for `stream`."""
        events = self.stream(prompt, sampling=sampling, stopping=stopping, **options)
        async with aclosing(events):
            async for event in events:
                if event.delta.text:
                    yield event.delta.text

    async def generate(
        self,
        prompt: PromptLike,
        *,
        sampling: pb.Sampling | None = None,
        stopping: pb.Stopping | None = None,
        logprobs: pb.Logprobs | None = None,
        **options: Unpack[CallOptions],
    ) -> pb.GenerateResponse:
        """Generate and return the whole text; arguments as for `stream`."""
        request = pb.GenerateRequest(
            prompt=prompt_message(prompt),
            sampling=sampling,
            stopping=stopping,
            logprobs=logprobs,
            model=self._model,
        )
        return await self._call(self._stub.Generate, request, options)

    async def score(
        self,
        context: PromptLike,
        continuations: Sequence[str | Sequence[int]],
        **options: Unpack[CallOptions],
    ) -> list[pb.ContinuationScore]:
        """How likely each of several texts, or token lists, is after a context."""
        request = score_request(context, continuations, self._model)
        response = await self._call(self._stub.Score, request, options)
        return list(response.scores)

    async def logits(
        self,
        prompt: PromptLike,
        positions: Sequence[int] = (),
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Logits]:
        """The model's logits, some rows at a time; closing the generator stops the server.

        Args:
            prompt: The text.
            positions: After which of its tokens, counted from 0, ascending; all if empty.
            **options: Of this call.
        """
        request = pb.LogitsRequest(
            prompt=prompt_message(prompt), positions=positions, model=self._model
        )
        async with aclosing(self._stream(self._stub.Logits, request, options)) as events:
            async for event in events:
                if event.HasField("rows"):
                    yield logits_of(event.rows)

    async def tokenize(self, prompt: PromptLike, **options: Unpack[CallOptions]) -> list[int]:
        """The tokens of a text, or of a conversation."""
        request = pb.TokenizeRequest(prompt=prompt_message(prompt), model=self._model)
        response = await self._call(self._stub.Tokenize, request, options)
        return list(response.token_ids)

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        **options: Unpack[CallOptions],
    ) -> str:
        """The text of tokens."""
        request = pb.DetokenizeRequest(
            token_ids=token_ids, skip_special_tokens=skip_special_tokens, model=self._model
        )
        return (await self._call(self._stub.Detokenize, request, options)).text

    async def apply_chat_template(
        self,
        conversation: Conversation,
        *,
        add_generation_prompt: bool = True,
        **options: Unpack[CallOptions],
    ) -> pb.ApplyChatTemplateResponse:
        """The text that the model reads of a conversation, and its tokens.

        Args:
            conversation: Turns as (role, content).
            add_generation_prompt: Whether it ends with the beginning of the model's turn.
            **options: Of this call.
        """
        request = pb.ApplyChatTemplateRequest(
            chat=chat_message(conversation),
            add_generation_prompt=add_generation_prompt,
            model=self._model,
        )
        return await self._call(self._stub.ApplyChatTemplate, request, options)

    async def list_models(self, **options: Unpack[CallOptions]) -> list[pb.Model]:
        """The models that the server holds: one."""
        response = await self._call(self._stub.ListModels, pb.ListModelsRequest(), options)
        return list(response.models)

    async def model_info(self, **options: Unpack[CallOptions]) -> pb.GetModelInfoResponse:
        """Describe the server's model."""
        return await self._call(
            self._stub.GetModelInfo, pb.GetModelInfoRequest(model=self._model), options
        )

    async def server_info(self, **options: Unpack[CallOptions]) -> pb.GetServerInfoResponse:
        """Describe the server: its limits, and what it does at this moment."""
        return await self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), options)

    async def abort(self, request_id: str, /, **options: Unpack[CallOptions]) -> bool:
        """Stop a request by its name; returns whether it was under way."""
        request = pb.AbortRequest(request_id=request_id)
        return (await self._call(self._stub.Abort, request, options)).was_running

    async def _call(
        self,
        # In quotes: grpc's classes take type arguments only in their stubs.
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        options: CallOptions,
    ) -> _Response:
        metadata = self._connection.metadata_of(options)
        tries = self._connection.tries(options)
        while True:
            try:
                return await method(request, timeout=tries.begin(), metadata=metadata)
            except grpc.RpcError as error:
                delay = tries.delay_after(self._error(error, options))
            await asyncio.sleep(delay)

    async def _stream(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[_Request, _Response]",
        request: _Request,
        options: CallOptions,
    ) -> AsyncGenerator[_Response]:
        metadata = self._connection.metadata_of(options)
        tries = self._connection.tries(options)
        began = False
        while True:
            call = method(request, timeout=tries.begin(), metadata=metadata)
            try:
                async for event in call:
                    began = True
                    yield event
                return
            except grpc.RpcError as error:
                failure = self._error(error, options)
                # What was yielded cannot be taken back.
                if began:
                    raise failure from error
                delay = tries.delay_after(failure)
            finally:
                call.cancel()
            await asyncio.sleep(delay)

    async def _check(self, timeout: float | None) -> str:
        check = self._channel.unary_unary(HEALTH_CHECK, serialize_health, parse_health)
        try:
            return health_name(await check(health_pb2.HealthCheckRequest(), timeout=timeout))
        except grpc.RpcError as error:
            raise self._error(error, CallOptions()) from error

    def _error(self, error: grpc.RpcError, options: CallOptions) -> ServerError:
        return server_error(self._connection.target, error, options.get("request_id", ""))
