"""From protobuf messages to what the engine is asked.

What a message repeats is counted before it is taken over: 16 MB of numbers take a second, in which
the event loop would do nothing else.
"""

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._errors import InvalidRequestError
from jang_runtime._requests import (
    MAX_LOGIT_BIASES,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    LogitsRequest,
    Logprobs,
    Prompt,
    Sampling,
    ScoreRequest,
    Stopping,
    TextPrompt,
    TokenPrompt,
    check_at_most,
    check_continuation_count,
)
from jang_runtime._service.lengths import check_continuation_lengths, check_prompt_length
from jang_runtime._service.options import RequestLimits


def generation_request(
    message: pb.GenerateRequest | pb.GenerateStreamRequest, limits: RequestLimits
) -> GenerationRequest:
    """A request for text; fields that are not set get their documented defaults.

    Raises:
        InvalidRequestError: If there is no prompt, or too much of something.
    """
    return GenerationRequest(
        prompt=prompt_of(message.prompt, "prompt", limits),
        sampling=_sampling(message.sampling),
        stopping=_stopping(message.stopping),
        logprobs=Logprobs(
            output=message.logprobs.output if message.logprobs.HasField("output") else None,
            prompt=message.logprobs.prompt if message.logprobs.HasField("prompt") else None,
        ),
    )


def score_request(message: pb.ScoreRequest, limits: RequestLimits) -> ScoreRequest:
    """A request for log-likelihoods.

    Raises:
        InvalidRequestError: If there is no context, a continuation is neither text nor tokens, or
            there is too much of something.
    """
    context = prompt_of(message.context, "context", limits)
    check_continuation_count(len(message.continuations))
    counts = [len(each.token_ids.ids) for each in message.continuations]
    check_continuation_lengths(counts, "", limits)
    return ScoreRequest(
        context=context,
        continuations=tuple(
            _continuation(each, f"continuations[{index}]")
            for index, each in enumerate(message.continuations)
        ),
    )


def logits_request(message: pb.LogitsRequest, limits: RequestLimits) -> LogitsRequest:
    """A request for logits.

    Raises:
        InvalidRequestError: If there is no prompt, or too much of something.
    """
    check_at_most("positions", len(message.positions), "positions", limits.max_prompt_tokens)
    return LogitsRequest(
        prompt=prompt_of(message.prompt, "prompt", limits),
        positions=tuple(message.positions) or None,
    )


def prompt_of(message: pb.Prompt, field: str, limits: RequestLimits) -> Prompt:
    """A prompt that stands in a field of a request.

    Raises:
        InvalidRequestError: If there is none, or too much of it.
    """
    match message.WhichOneof("input"):
        case "text":
            add = message.add_special_tokens if message.HasField("add_special_tokens") else True
            return TextPrompt(text=message.text, add_special_tokens=add)
        case "token_ids":
            check_prompt_length(field, len(message.token_ids.ids), "", limits)
            return TokenPrompt(ids=tuple(message.token_ids.ids))
        case "chat":
            return chat_of(message.chat, f"{field}.chat", limits)
        case None:
            raise InvalidRequestError(field, "none", "one of text, token_ids, chat")


def chat_of(message: pb.Chat, field: str, limits: RequestLimits) -> ChatPrompt:
    """A conversation that stands in a field of a request.

    Raises:
        InvalidRequestError: If it has more messages than a prompt may have tokens.
    """
    most = limits.max_prompt_tokens
    check_at_most(f"{field}.messages", len(message.messages), "messages", most)
    return ChatPrompt(tuple(ChatMessage(turn.role, turn.content) for turn in message.messages))


def _continuation(message: pb.Continuation, field: str) -> str | tuple[int, ...]:
    match message.WhichOneof("input"):
        case "text":
            return message.text
        case "token_ids":
            return tuple(message.token_ids.ids)
        case None:
            raise InvalidRequestError(field, "none", "one of text, token_ids")


def _sampling(message: pb.Sampling) -> Sampling:
    check_at_most("sampling.logit_bias", len(message.logit_bias), "tokens", MAX_LOGIT_BIASES)
    default = Sampling()
    return Sampling(
        temperature=(
            message.temperature if message.HasField("temperature") else default.temperature
        ),
        top_p=message.top_p if message.HasField("top_p") else default.top_p,
        top_k=message.top_k if message.HasField("top_k") else default.top_k,
        min_p=message.min_p if message.HasField("min_p") else default.min_p,
        seed=message.seed if message.HasField("seed") else default.seed,
        logit_bias=dict(message.logit_bias),
        repetition_penalty=(
            message.repetition_penalty
            if message.HasField("repetition_penalty")
            else default.repetition_penalty
        ),
        presence_penalty=(
            message.presence_penalty
            if message.HasField("presence_penalty")
            else default.presence_penalty
        ),
        frequency_penalty=(
            message.frequency_penalty
            if message.HasField("frequency_penalty")
            else default.frequency_penalty
        ),
        penalty_window=(
            message.penalty_window if message.HasField("penalty_window") else default.penalty_window
        ),
    )


def _stopping(message: pb.Stopping) -> Stopping:
    strings, ids = len(message.stop_strings), len(message.stop_token_ids)
    check_at_most("stopping.stop_strings", strings, "strings", MAX_STOP_STRINGS)
    check_at_most("stopping.stop_token_ids", ids, "tokens", MAX_STOP_TOKENS)
    return Stopping(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop_strings=tuple(message.stop_strings),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos if message.HasField("ignore_eos") else False,
        time_limit_seconds=(
            message.time_limit_seconds if message.HasField("time_limit_seconds") else None
        ),
    )
