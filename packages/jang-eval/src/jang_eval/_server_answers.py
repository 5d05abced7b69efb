"""What servers answer, out of the messages in which they do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from jang_eval._errors import TargetError
from jang_eval._model_info import ModelInfo, PlanRow, SpecialTokens
from jang_proto.runtime.v1 import runtime_pb2

_NO_LIMIT: Final = 2**32


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
class Room:
    """How many tokens a server takes.

    Attributes:
        context: Of a prompt with what follows it.
        prompt: Of a prompt alone.
    """

    context: int
    prompt: int


@dataclass(frozen=True)
class Arrivals:
    """When the tokens of an answer came.

    Attributes:
        times: Of each message with tokens, by `time.perf_counter`.
        counts: Tokens in each of them.
    """

    times: tuple[float, ...]
    counts: tuple[int, ...]


def model_info_of(info: runtime_pb2.GetModelInfoResponse) -> ModelInfo:
    """What the server says of its model."""
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


def server_info_of(info: runtime_pb2.GetServerInfoResponse) -> ServerInfo:
    """What the server says of itself."""
    return ServerInfo(
        version=info.version,
        backend=info.backend,
        ranks=info.ranks,
        load_seconds=info.load_seconds,
        peak_memory_bytes=info.load.peak_memory_bytes,
        resident_bytes=info.load.resident_bytes,
    )


def room_of(context_length: int, most_prompt_tokens: int) -> Room:
    """The limits of a server; one that does not know them sends proto3's zero."""
    context = context_length or _NO_LIMIT
    return Room(context=context, prompt=min(context, most_prompt_tokens or _NO_LIMIT))


def scores_of(
    scores: Sequence[runtime_pb2.ContinuationScore],
    continuations: Sequence[str | tuple[int, ...]],
    address: str,
) -> tuple[Score, ...]:
    """How likely continuations are.

    Raises:
        TargetError: There is not one for each of them, or of other tokens, or one is no number.
    """
    if len(scores) != len(continuations):
        raise TargetError(
            f"server {address}: found {len(scores)} scores, expected {len(continuations)}"
        )
    return tuple(map(partial(_score_of, address), scores, continuations))


def _score_of(
    address: str, score: runtime_pb2.ContinuationScore, continuation: str | tuple[int, ...]
) -> Score:
    logprobs, ids = tuple(score.token_logprobs), tuple(score.token_ids)
    for value in (score.logprob, *logprobs):
        if not math.isfinite(value):
            raise TargetError(f"server {address}: found a score of {value}, expected a finite one")
    expected = len(ids) if isinstance(continuation, str) else len(continuation)
    if len(logprobs) != expected:
        raise TargetError(
            f"server {address}: found a score of {len(logprobs)} tokens, expected {expected}"
        )
    if not isinstance(continuation, str) and ids != continuation:
        raise TargetError(f"server {address}: found a score of other tokens than were asked for")
    return Score(score.logprob, logprobs, ids, score.is_greedy)


def logits_of(
    rows: runtime_pb2.LogitsRows, vocabulary: int, address: str
) -> npt.NDArray[np.float32]:
    """Logits, `[positions, vocabulary]`.

    Raises:
        TargetError: There is not one for each token of the vocabulary at each position.
    """
    found, expected = len(rows.values), 4 * vocabulary * len(rows.positions)
    if rows.vocabulary_size != vocabulary or found != expected:
        raise TargetError(
            f"server {address}: found {found} bytes of logits over {rows.vocabulary_size} tokens, "
            f"expected {expected} over {vocabulary} for {len(rows.positions)} positions"
        )
    return np.frombuffer(rows.values, "<f4").reshape(len(rows.positions), vocabulary)


def finish_reason_of(value: int) -> str:
    """Names the reason as the API does; a newer server may know more of them than this client."""
    known = runtime_pb2.FinishReason.DESCRIPTOR.values_by_number.get(value)
    return known.name.removeprefix("FINISH_REASON_").lower() if known else f"unknown ({value})"
