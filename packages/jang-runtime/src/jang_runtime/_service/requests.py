"""From protobuf messages to what the engine is asked."""

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._errors import InvalidRequestError
from jang_runtime._requests import (
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
)


def generation_request(
    message: pb.GenerateRequest | pb.GenerateStreamRequest,
) -> GenerationRequest:
    """A request for text; fields that are not set get their documented defaults.

    Raises:
        InvalidRequestError: If there is no prompt.
    """
    return GenerationRequest(
        prompt=prompt_of(message.prompt, "prompt"),
        sampling=_sampling(message.sampling),
        stopping=_stopping(message.stopping),
        logprobs=Logprobs(
            output=message.logprobs.output if message.logprobs.HasField("output") else None,
            prompt=message.logprobs.prompt if message.logprobs.HasField("prompt") else None,
        ),
    )


def score_request(message: pb.ScoreRequest) -> ScoreRequest:
    """A request for log-likelihoods.

    Raises:
        InvalidRequestError: If there is no context, or a continuation is neither text nor tokens.
    """
    return ScoreRequest(
        context=prompt_of(message.context, "context"),
        continuations=tuple(
            _continuation(each, f"continuations[{index}]")
            for index, each in enumerate(message.continuations)
        ),
    )


def logits_request(message: pb.LogitsRequest) -> LogitsRequest:
    """A request for logits.

    Raises:
        InvalidRequestError: If there is no prompt.
    """
    return LogitsRequest(
        prompt=prompt_of(message.prompt, "prompt"), positions=tuple(message.positions) or None
    )


def prompt_of(message: pb.Prompt, field: str) -> Prompt:
    """A prompt that stands in a field of a request.

    Raises:
        InvalidRequestError: If there is none.
    """
    match message.WhichOneof("input"):
        case "text":
            add = message.add_special_tokens if message.HasField("add_special_tokens") else True
            return TextPrompt(text=message.text, add_special_tokens=add)
        case "token_ids":
            return TokenPrompt(ids=tuple(message.token_ids.ids))
        case "chat":
            return chat_of(message.chat)
        case None:
            raise InvalidRequestError(field, "none", "one of text, token_ids, chat")


def chat_of(message: pb.Chat) -> ChatPrompt:
    """A conversation."""
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
    return Stopping(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop_strings=tuple(message.stop_strings),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos if message.HasField("ignore_eos") else False,
        time_limit_seconds=(
            message.time_limit_seconds if message.HasField("time_limit_seconds") else None
        ),
    )
