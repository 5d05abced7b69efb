"""What the calls of both clients are made of, and what comes of their answers."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from grpc_health.v1 import health_pb2

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._errors import ServerError
from jang_runtime._events import Logits

# Turns as (role, content).
Conversation: TypeAlias = Sequence[tuple[str, str]]
# Plain text, a conversation, tokens, or the message itself.
PromptLike: TypeAlias = str | Conversation | Sequence[int] | pb.Prompt

READY_SECONDS: Final = 10.0
# How often a server that is not ready is looked at.
POLL_SECONDS: Final = 0.1
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
serialize_health: Final[Callable[[health_pb2.HealthCheckRequest], bytes]] = (
    health_pb2.HealthCheckRequest.SerializeToString
)
parse_health: Final[Callable[[bytes], health_pb2.HealthCheckResponse]] = (
    health_pb2.HealthCheckResponse.FromString
)


def prompt_message(prompt: PromptLike) -> pb.Prompt:
    """What the model continues."""
    if isinstance(prompt, pb.Prompt):
        return prompt
    if isinstance(prompt, str):
        return pb.Prompt(text=prompt)
    tokens = [entry for entry in prompt if isinstance(entry, int)]
    if tokens:
        return pb.Prompt(token_ids=pb.TokenIds(ids=tokens))
    return pb.Prompt(chat=chat_message([entry for entry in prompt if not isinstance(entry, int)]))


def chat_message(conversation: Conversation) -> pb.Chat:
    """A conversation."""
    turns = [pb.ChatMessage(role=role, content=content) for role, content in conversation]
    return pb.Chat(messages=turns)


def score_request(
    context: PromptLike, continuations: Sequence[str | Sequence[int]], model: str | None
) -> pb.ScoreRequest:
    """The request for how likely continuations are."""
    messages = [
        pb.Continuation(text=continuation)
        if isinstance(continuation, str)
        else pb.Continuation(token_ids=pb.TokenIds(ids=continuation))
        for continuation in continuations
    ]
    return pb.ScoreRequest(context=prompt_message(context), continuations=messages, model=model)


def logits_of(rows: pb.LogitsRows) -> Logits:
    """Rows of logits as numbers: float32, `[positions, vocabulary]`."""
    values = np.frombuffer(rows.values, dtype="<f4").astype(np.float32)
    return Logits(
        positions=tuple(rows.positions),
        values=values.reshape(len(rows.positions), rows.vocabulary_size),
    )


def health_name(response: health_pb2.HealthCheckResponse) -> str:
    """What a server says of itself, such as "SERVING"."""
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


def is_ready(health: str | ServerError) -> bool:
    """Whether a server answers calls, by its state or by how asking for it failed.

    A server without grpc.health.v1 is ready when it answers at all.

    Raises:
        ServerError: If waiting does not help.
    """
    if isinstance(health, str):
        return health == "SERVING"
    if health.code == "UNIMPLEMENTED":
        return True
    if health.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return False
    raise health


def not_ready(target: str, seconds: float, health: str | ServerError) -> ServerError:
    """The error for a server that is still not ready after some time."""
    if isinstance(health, str):
        message = f"{target}: not serving within {seconds:g} seconds: found {health}"
        return ServerError(message, code="UNAVAILABLE")
    return ServerError(
        f"{target}: no answer within {seconds:g} seconds ({health})", code=health.code
    )
