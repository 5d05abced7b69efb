"""A client for Python programs that call a JANG server."""

from collections.abc import Iterator, Sequence
from typing import Final

import grpc

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._errors import ServerError

_CONNECT_SECONDS: Final = 10.0

Conversation = Sequence[tuple[str, str]]


class Client:
    """Talks to one server; use as a context manager, or call `close`.

    Args:
        target: "HOST:PORT".
        timeout: Seconds that a call may take; None waits for as long as it takes.
    """

    def __init__(self, target: str, timeout: float | None = None) -> None:
        self._channel = grpc.insecure_channel(target)
        self._stub = runtime_pb2_grpc.RuntimeServiceStub(self._channel)
        self._target = target
        self._timeout = timeout

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def wait_until_ready(self, seconds: float = _CONNECT_SECONDS) -> None:
        """Wait until the server answers.

        Raises:
            ServerError: If it does not within `seconds`.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
        except grpc.FutureTimeoutError as error:
            raise ServerError(f"{self._target}: no answer within {seconds:g} seconds") from error

    def stream(
        self,
        prompt: str | Conversation,
        *,
        sampling: pb.Sampling | None = None,
        stopping: pb.Stopping | None = None,
    ) -> Iterator[pb.GenerateStreamResponse]:
        """Generate, yielding the events as they come; closing the iterator stops the server.

        Args:
            prompt: Plain text, or turns of a conversation as (role, content).
            sampling: How the next token is chosen; the server's defaults if None.
            stopping: When to stop; the server's defaults if None.

        Raises:
            ServerError: With the server's own words.
        """
        request = pb.GenerateStreamRequest(
            prompt=_prompt(prompt), sampling=sampling, stopping=stopping
        )
        call = self._stub.GenerateStream(request, timeout=self._timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._server_error(error) from error
        finally:
            call.cancel()

    def generate(
        self,
        prompt: str | Conversation,
        *,
        sampling: pb.Sampling | None = None,
        stopping: pb.Stopping | None = None,
    ) -> pb.GenerateResponse:
        """Generate and return the whole text; arguments as for `stream`.

        Raises:
            ServerError: With the server's own words.
        """
        request = pb.GenerateRequest(prompt=_prompt(prompt), sampling=sampling, stopping=stopping)
        try:
            return self._stub.Generate(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._server_error(error) from error

    def model_info(self) -> pb.GetModelInfoResponse:
        """Describe the server's model.

        Raises:
            ServerError: With the server's own words.
        """
        try:
            return self._stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._server_error(error) from error

    def _server_error(self, error: grpc.RpcError) -> ServerError:
        # Every error of a call carries a status; grpc's types say so only for the call.
        status = error.code() if isinstance(error, grpc.Call) else None
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        return ServerError(f"{self._target}: {status.name if status else 'ERROR'}: {details}")


def _prompt(prompt: str | Conversation) -> pb.Prompt:
    if isinstance(prompt, str):
        return pb.Prompt(text=prompt)
    messages = [pb.ChatMessage(role=role, content=content) for role, content in prompt]
    return pb.Prompt(chat=pb.Chat(messages=messages))
