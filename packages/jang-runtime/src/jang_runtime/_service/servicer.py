"""The RPCs of jang.runtime.v1, over an engine; errors are those of jang_runtime."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from importlib.metadata import version
from typing import Final

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._backend import describe_backend
from jang_runtime._engine import Engine
from jang_runtime._errors import InvalidRequestError, ModelNotFoundError
from jang_runtime._events import (
    Delta,
    Finished,
    Logits,
    PromptLogprobs,
    Score,
    Started,
)
from jang_runtime._memory import resident
from jang_runtime._requests import (
    MAX_STOP_STRING_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_TOP_LOGPROBS,
    ChatPrompt,
    TextPrompt,
    check_at_most,
    check_chat,
    check_prompt,
    check_token_ids,
)
from jang_runtime._service.admission import Admission
from jang_runtime._service.calls import current_call
from jang_runtime._service.handlers import Context
from jang_runtime._service.lengths import check_prompt_length
from jang_runtime._service.options import ServiceOptions, request_limits
from jang_runtime._service.requests import (
    chat_of,
    generation_request,
    logits_request,
    prompt_of,
    score_request,
)
from jang_runtime._service.responses import (
    delta_message,
    finished_message,
    logprobs_messages,
    model_info_message,
    model_message,
    prompt_logprobs_messages,
    rows_messages,
    score_message,
    started_message,
    timings_message,
    usage_message,
)
from jang_runtime._service.running import Served, run, run_with_texts
from jang_runtime._service.texts import Texts

# Some 5 milliseconds.
_TOKENS_AT_ONCE: Final = 2**16
_SHARDINGS: Final = {
    "none": pb.SHARDING_NONE,
    "tensor": pb.SHARDING_TENSOR,
    "pipeline": pb.SHARDING_PIPELINE,
}


class RuntimeServicer(runtime_pb2_grpc.RuntimeServiceServicer):
    """jang.runtime.v1.RuntimeService.

    Args:
        admission: The server's door; it is closed until `serve` was called.
        options: The server's.
    """

    def __init__(self, admission: Admission, options: ServiceOptions) -> None:
        self._admission = admission
        self._options = options
        self._served: Served | None = None
        self._began = time.monotonic()
        self._load_seconds = 0.0

    def serve(self, engine: Engine, texts: Texts, load_seconds: float) -> None:
        """Say what requests are run with, and how long that took to load."""
        self._load_seconds = load_seconds
        limits = request_limits(self._options, engine.info)
        self._served = Served(engine, texts, self._admission, limits, self._options)

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Stream the events of one generation."""
        served = self._served_as(request.model)
        # Closed here, not by the garbage collector: this is what stops the generation.
        async with aclosing(run(served, generation_request(request, served.limits))) as events:
            async for event in events:
                match event:
                    case Started():
                        started = started_message(event, current_call().request_id)
                        yield pb.GenerateStreamResponse(started=started)
                    case PromptLogprobs():
                        for message in prompt_logprobs_messages(event):
                            yield pb.GenerateStreamResponse(prompt_logprobs=message)
                    case Delta():
                        yield pb.GenerateStreamResponse(delta=delta_message(event))
                        _note_tokens(event)
                    case Finished():
                        yield pb.GenerateStreamResponse(finished=finished_message(event))
                    case _:
                        raise AssertionError(f"not of a generation: {event}")

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Answer with the whole text of one generation."""
        response = pb.GenerateResponse()
        texts: list[str] = []
        served = self._served_as(request.model)
        async with aclosing(run(served, generation_request(request, served.limits))) as events:
            async for event in events:
                match event:
                    case PromptLogprobs():
                        response.prompt_logprobs.SetInParent()
                        response.prompt_logprobs.tokens.extend(logprobs_messages(event.tokens))
                    case Delta():
                        texts.append(event.text)
                        response.token_ids.extend(event.token_ids)
                        response.logprobs.extend(logprobs_messages(event.logprobs))
                        _note_tokens(event)
                    case Finished():
                        response.finished.CopyFrom(finished_message(event))
                    case _:
                        pass
        response.text = "".join(texts)
        return response

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Answer with the log-likelihoods of continuations."""
        response = pb.ScoreResponse()
        served = self._served_as(request.model)
        async with aclosing(run(served, score_request(request, served.limits))) as events:
            async for event in events:
                match event:
                    case Score():
                        response.scores.append(score_message(event))
                    case Finished():
                        response.usage.CopyFrom(usage_message(event))
                        response.timings.CopyFrom(timings_message(event))
                    case _:
                        pass
        return response

    async def Logits(
        self, request: pb.LogitsRequest, context: Context
    ) -> AsyncIterator[pb.LogitsResponse]:
        """Stream rows of logits."""
        served = self._served_as(request.model)
        async with aclosing(run(served, logits_request(request, served.limits))) as events:
            async for event in events:
                match event:
                    case Started():
                        started = started_message(event, current_call().request_id)
                        yield pb.LogitsResponse(started=started)
                    case Logits():
                        for rows in rows_messages(event):
                            yield pb.LogitsResponse(rows=rows)
                    case Finished():
                        yield pb.LogitsResponse(finished=finished_message(event))
                    case _:
                        raise AssertionError(f"not of logits: {event}")

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Answer with a prompt's tokens."""
        served = self._served_as(request.model)
        prompt = prompt_of(request.prompt, "prompt", served.limits)
        check_prompt("prompt", prompt, served.engine.info.vocabulary_size)
        # A text may be longer than a prompt: whoever cuts it into prompts needs its tokens.
        if isinstance(prompt, ChatPrompt):
            _check_conversation("prompt", prompt, served)
        characters = len(prompt.text) if isinstance(prompt, TextPrompt) else 0
        ids = await run_with_texts(served, lambda texts: texts.tokenize(prompt), characters)
        if isinstance(prompt, ChatPrompt):
            check_prompt_length("prompt", len(ids), "", served.limits)
        return await _tokens_message(ids)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Answer with the text of tokens."""
        served = self._served_as(request.model)
        # An answer may be longer than a prompt, but not longer than the context.
        most = served.limits.context_length
        check_at_most("token_ids", len(request.token_ids), "tokens", most)
        ids = tuple(request.token_ids)
        check_token_ids("token_ids", ids, served.engine.info.vocabulary_size)
        skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
        text = await run_with_texts(served, lambda texts: texts.detokenize(ids, skip))
        return pb.DetokenizeResponse(text=text)

    async def ApplyChatTemplate(
        self, request: pb.ApplyChatTemplateRequest, context: Context
    ) -> pb.ApplyChatTemplateResponse:
        """Answer with what the model reads of a conversation."""
        served = self._served_as(request.model)
        chat = chat_of(request.chat, "chat", served.limits)
        check_chat("chat", chat)
        add = request.add_generation_prompt if request.HasField("add_generation_prompt") else True
        _check_conversation("chat", chat, served)
        text, ids = await run_with_texts(served, lambda texts: texts.conversation(chat, add))
        check_prompt_length("chat", len(ids), "", served.limits)
        return pb.ApplyChatTemplateResponse(text=text, token_ids=ids)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """List the one model."""
        return pb.ListModelsResponse(models=[model_message(self._ready().engine.info)])

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Context
    ) -> pb.GetModelInfoResponse:
        """Describe the model."""
        return model_info_message(self._served_as(request.model).engine.info)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """Describe the server."""
        served = self._ready()
        statistics = served.engine.statistics()
        return pb.GetServerInfoResponse(
            version=version("jang-runtime"),
            backend=describe_backend(served.engine.info.backend),
            ranks=served.engine.info.ranks,
            sharding=_SHARDINGS[served.engine.info.sharding],
            limits=pb.Limits(
                max_prompt_tokens=served.limits.max_prompt_tokens,
                max_tokens=served.limits.max_tokens,
                max_stop_strings=MAX_STOP_STRINGS,
                max_top_logprobs=MAX_TOP_LOGPROBS,
                max_message_bytes=self._options.max_message_bytes,
                max_queued=self._options.max_queued,
                max_active=statistics.places,
                cache_bytes=statistics.cache_bytes,
                max_stop_string_characters=MAX_STOP_STRING_CHARACTERS,
            ),
            load=pb.Load(
                queued=self._admission.queued,
                active=self._admission.active,
                cache_bytes_reserved=statistics.cache_bytes_reserved,
                memory_bytes=statistics.active_memory,
                peak_memory_bytes=statistics.peak_memory,
                resident_bytes=resident(),
            ),
            uptime_seconds=time.monotonic() - self._began,
            load_seconds=self._load_seconds,
        )

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        """Stop a request of the same caller by its name."""
        if not request.request_id:
            raise InvalidRequestError("request_id", "none", "the name of a request")
        was_running = self._admission.abort(current_call().caller, request.request_id)
        return pb.AbortResponse(was_running=was_running)

    def _served_as(self, model: str) -> Served:
        """What requests for a model are run with; an empty name means the one that is there.

        Raises:
            NotServingError: If it is not there.
            ModelNotFoundError: If another one is.
        """
        served = self._ready()
        if model not in ("", served.engine.info.name):
            raise ModelNotFoundError(model, served.engine.info.name)
        return served

    def _ready(self) -> Served:
        """What requests are run with.

        Raises:
            NotServingError: If it is not there.
        """
        self._admission.check_door()
        assert self._served is not None, "the door is open"
        return self._served


def _check_conversation(field: str, chat: ChatPrompt, served: Served) -> None:
    """Refuse a conversation that is too long for certain, before it is tokenized."""
    check_prompt_length(field, served.texts.fewest_tokens(chat), "or more ", served.limits)


async def _tokens_message(ids: Sequence[int]) -> pb.TokenizeResponse:
    """The message for tokens, made in pieces: other calls have their turns between them."""
    message = pb.TokenizeResponse()
    for start in range(0, len(ids), _TOKENS_AT_ONCE):
        message.token_ids.extend(ids[start : start + _TOKENS_AT_ONCE])
        await asyncio.sleep(0)
    return message


def _note_tokens(event: Delta) -> None:
    # The end of a text can come without a token of its own.
    if event.token_ids:
        current_call().note_tokens(len(event.token_ids))
