"""Between protobuf messages and the engine's requests and events."""

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._errors import InvalidRequestError
from jang_runtime._events import Delta, Finished, FinishReason, Started
from jang_runtime._model import ModelInfo
from jang_runtime._requests import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    Sampling,
    Stopping,
    TextPrompt,
    TokenPrompt,
)


def request_from_message(
    message: pb.GenerateRequest | pb.GenerateStreamRequest,
) -> GenerationRequest:
    """The request in a message; fields that are not set get their documented defaults.

    Raises:
        InvalidRequestError: If there is no prompt.
    """
    return GenerationRequest(
        prompt=_prompt(message.prompt),
        sampling=_sampling(message.sampling),
        stopping=_stopping(message.stopping),
    )


def _prompt(message: pb.Prompt) -> Prompt:
    match message.WhichOneof("input"):
        case "text":
            add = message.add_special_tokens if message.HasField("add_special_tokens") else True
            return TextPrompt(text=message.text, add_special_tokens=add)
        case "token_ids":
            return TokenPrompt(ids=tuple(message.token_ids.ids))
        case "chat":
            turns = (ChatMessage(turn.role, turn.content) for turn in message.chat.messages)
            return ChatPrompt(messages=tuple(turns))
        case None:
            raise InvalidRequestError("prompt", "none", "one of text, token_ids, chat")


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
    )


def _stopping(message: pb.Stopping) -> Stopping:
    return Stopping(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop_strings=tuple(message.stop_strings),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos if message.HasField("ignore_eos") else False,
    )


def started_message(event: Started, request_id: str) -> pb.Started:
    """The message for a request's start."""
    return pb.Started(request_id=request_id, prompt_tokens=event.prompt_tokens)


def delta_message(event: Delta) -> pb.Delta:
    """The message for new text."""
    return pb.Delta(text=event.text, token_ids=event.token_ids)


def finished_message(event: Finished) -> pb.Finished:
    """The message for a request's end."""
    message = pb.Finished(
        finish_reason=_FINISH_REASONS[event.reason],
        usage=pb.Usage(
            prompt_tokens=event.prompt_tokens, completion_tokens=event.completion_tokens
        ),
        timings=pb.Timings(
            queue_seconds=event.timings.queue,
            prefill_seconds=event.timings.prefill,
            decode_seconds=event.timings.decode,
        ),
    )
    match event.matched_stop:
        case str(text):
            message.stop_string = text
        case int(token_id):
            message.stop_token_id = token_id
        case None:
            pass
    return message


_FINISH_REASONS = {
    reason: pb.FinishReason.Value(f"FINISH_REASON_{reason.value}") for reason in FinishReason
}


def model_info_message(info: ModelInfo) -> pb.GetModelInfoResponse:
    """The message that describes the model."""
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
    )
