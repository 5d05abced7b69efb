"""From the engine's events and facts to protobuf messages."""

from collections.abc import Iterator, Sequence
from typing import Final

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._events import (
    Delta,
    Finished,
    FinishReason,
    Logits,
    PromptLogprobs,
    Score,
    Started,
    TokenLogprobs,
)
from jang_runtime._model import ModelInfo

# Of logits and of log-probabilities; a client's limit is 4 MiB unless it sets another.
_CHUNK_BYTES: Final = 2**20
# The most that a token with its log-probability takes in a message.
_LOGPROB_BYTES: Final = 24
_FINISH_REASONS: Final = {
    reason: pb.FinishReason.Value(f"FINISH_REASON_{reason.value}") for reason in FinishReason
}


def started_message(event: Started, request_id: str) -> pb.Started:
    """The message for a request's start."""
    return pb.Started(request_id=request_id, prompt_tokens=event.prompt_tokens)


def delta_message(event: Delta) -> pb.Delta:
    """The message for new text."""
    return pb.Delta(
        text=event.text, token_ids=event.token_ids, logprobs=logprobs_messages(event.logprobs)
    )


def prompt_logprobs_messages(event: PromptLogprobs) -> Iterator[pb.PromptLogprobs]:
    """The messages for log-probabilities of a prompt, each of bounded size, at least one."""
    entries = 1 + max((len(token.top) for token in event.tokens), default=0)
    most = max(1, _CHUNK_BYTES // (_LOGPROB_BYTES * entries))
    for start in range(0, max(1, len(event.tokens)), most):
        yield pb.PromptLogprobs(tokens=logprobs_messages(event.tokens[start : start + most]))


def logprobs_messages(tokens: Sequence[TokenLogprobs]) -> list[pb.TokenLogprobs]:
    """The messages for log-probabilities of tokens."""
    return [
        pb.TokenLogprobs(
            token_id=token.token_id,
            logprob=token.logprob,
            rank=token.rank,
            top=[pb.TopLogprob(token_id=other, logprob=value) for other, value in token.top],
        )
        for token in tokens
    ]


def score_message(event: Score) -> pb.ContinuationScore:
    """The message for a continuation's score."""
    return pb.ContinuationScore(
        logprob=event.total,
        token_logprobs=event.logprobs,
        token_ids=event.token_ids,
        is_greedy=event.is_greedy,
    )


def rows_messages(event: Logits) -> Iterator[pb.LogitsRows]:
    """The messages for rows of logits, each of bounded size."""
    vocabulary_size = event.values.shape[1]
    most = max(1, _CHUNK_BYTES // (4 * vocabulary_size))
    values = event.values.astype("<f4", copy=False)
    for start in range(0, len(event.positions), most):
        yield pb.LogitsRows(
            positions=event.positions[start : start + most],
            vocabulary_size=vocabulary_size,
            values=values[start : start + most].tobytes(),
        )


def usage_message(event: Finished) -> pb.Usage:
    """The message for what a request cost."""
    return pb.Usage(
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        cached_prompt_tokens=event.cached_prompt_tokens,
    )


def timings_message(event: Finished) -> pb.Timings:
    """The message for where a request's time went."""
    return pb.Timings(
        queue_seconds=event.timings.queue,
        prefill_seconds=event.timings.prefill,
        decode_seconds=event.timings.decode,
    )


def finished_message(event: Finished) -> pb.Finished:
    """The message for a request's end."""
    message = pb.Finished(
        finish_reason=_FINISH_REASONS[event.reason],
        usage=usage_message(event),
        timings=timings_message(event),
    )
    match event.matched_stop:
        case str(text):
            message.stop_string = text
        case int(token_id):
            message.stop_token_id = token_id
        case None:
            pass
    return message


def model_message(info: ModelInfo) -> pb.Model:
    """The message for the model in a list."""
    return pb.Model(
        name=info.name,
        architecture=info.architecture,
        profile=info.profile,
        digest=info.digest,
        context_length=info.context_length,
    )


def model_info_message(info: ModelInfo) -> pb.GetModelInfoResponse:
    """The message that describes the model."""
    special = info.special_tokens
    return pb.GetModelInfoResponse(
        name=info.name,
        architecture=info.architecture,
        profile=info.profile,
        bits_per_weight=info.bits_per_weight,
        weight_bytes=info.weight_bytes,
        context_length=info.context_length,
        vocabulary_size=info.vocabulary_size,
        eos_token_ids=info.eos_token_ids,
        has_chat_template=info.has_chat_template,
        source_name=info.source_name,
        source_quantization=info.source_quantization,
        digest=info.digest,
        layout=info.layout,
        special_tokens=pb.SpecialTokens(
            bos=special.bos, eos=special.eos, pad=special.pad, unknown=special.unknown
        ),
        bits_per_weight_without_embeddings=info.bits_per_weight_without_embeddings,
        parameters=info.parameters,
        plan=[
            pb.PlanRow(
                role=row.role,
                bits=row.bits,
                group_size=row.group_size,
                modules=row.modules,
                parameters=row.parameters,
                bytes=row.nbytes,
            )
            for row in info.plan
        ],
        plan_digest=info.plan_digest,
    )
