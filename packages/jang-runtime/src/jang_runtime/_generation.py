"""One generation from request to text, in the thread that owns the model."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import jinja2
import mlx.core as mx

from jang_runtime._errors import InvalidRequestError
from jang_runtime._events import Delta, Event, Finished, FinishReason, Started, Timings
from jang_runtime._model import LoadedModel
from jang_runtime._requests import (
    DEFAULT_MAX_TOKENS,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    TextPrompt,
    TokenPrompt,
    check_request,
)
from jang_runtime._sampling import make_sampler
from jang_runtime._text import Detokenizer, StopStrings

# A request can be cancelled between steps of its prompt. On CPU a token takes about 0.1 s.
_PREFILL_STEP: Final = {"cpu": 32, "metal": 2048, "cuda": 2048}


class _CancelledError(Exception):
    """Leaves the prompt's processing when the request was cancelled."""


@dataclass
class _Progress:
    """What a generation has done so far."""

    arrived: float
    begun: float
    prompt_tokens: int
    first_token: float | None = None
    completion_tokens: int = 0
    unsent: list[int] = field(default_factory=list[int])

    def finished(self, reason: FinishReason, matched_stop: str | int | None = None) -> Finished:
        now = time.monotonic()
        first_token = self.first_token or now
        return Finished(
            reason=reason,
            matched_stop=matched_stop,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            timings=Timings(
                queue=self.begun - self.arrived,
                prefill=first_token - self.begun,
                decode=now - first_token,
            ),
        )

    def delta(self, text: str) -> Delta:
        ids, self.unsent = tuple(self.unsent), []
        return Delta(text=text, token_ids=ids)


def generate(
    loaded: LoadedModel,
    request: GenerationRequest,
    is_cancelled: Callable[[], bool],
    arrived: float,
) -> Iterator[Event]:
    """Yield the events of one request, computing each as it is asked for.

    Args:
        loaded: The model; this is its thread.
        request: What to generate.
        is_cancelled: Asked between steps of the prompt and between tokens.
        arrived: `time.monotonic()` at which the request came.

    Raises:
        InvalidRequestError: If the request asks for what cannot be done.
    """
    begun = time.monotonic()
    info = loaded.info
    check_request(request, info.vocabulary_size, info.context_length)
    prompt = tokenize(loaded, request.prompt)
    room = info.context_length - len(prompt)
    if room < 1:
        raise InvalidRequestError(
            "prompt", f"{len(prompt)} tokens", f"fewer than the context's {info.context_length}"
        )
    progress = _Progress(arrived=arrived, begun=begun, prompt_tokens=len(prompt))
    yield Started(prompt_tokens=len(prompt))
    with closing(_tokens(loaded, request, prompt, room, is_cancelled)) as tokens:
        yield from _text_events(loaded, request, progress, tokens, is_cancelled)


def tokenize(loaded: LoadedModel, prompt: Prompt) -> list[int]:
    """The prompt's tokens.

    Raises:
        InvalidRequestError: If it has none, or the model's template refuses the conversation.
    """
    tokenizer = loaded.tokenizer
    match prompt:
        case TokenPrompt(ids):
            return list(ids)
        case TextPrompt(text, add_special_tokens):
            ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
            if not ids:
                raise InvalidRequestError("prompt.text", "no tokens", "at least one")
            return ids
        case ChatPrompt(messages):
            if not tokenizer.has_chat_template:
                raise InvalidRequestError(
                    "prompt.chat", "a conversation", "text: this model has no chat template"
                )
            turns = [{"role": turn.role, "content": turn.content} for turn in messages]
            try:
                return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True))
            except jinja2.TemplateError as error:
                raise InvalidRequestError(
                    "prompt.chat", f"{error}", "a conversation that the model's template accepts"
                ) from error


def _tokens(
    loaded: LoadedModel,
    request: GenerationRequest,
    prompt: list[int],
    room: int,
    is_cancelled: Callable[[], bool],
) -> Generator[int, None, None]:
    """Tokens as the model gives them, at most as many as the request and the context allow."""
    from mlx_lm.generate import generate_step

    def between_steps(done: int, total: int) -> None:
        if is_cancelled():
            raise _CancelledError

    steps = generate_step(
        mx.array(prompt),
        loaded.model,
        max_tokens=_token_limit(request, room),
        sampler=make_sampler(request.sampling),
        prefill_step_size=_PREFILL_STEP[loaded.info.backend],
        prompt_progress_callback=between_steps,
    )
    with closing(steps):
        for token, _ in steps:
            yield token


def _token_limit(request: GenerationRequest, room: int) -> int:
    return min(request.stopping.max_tokens or DEFAULT_MAX_TOKENS, room)


def _text_events(
    loaded: LoadedModel,
    request: GenerationRequest,
    progress: _Progress,
    tokens: Generator[int, None, None],
    is_cancelled: Callable[[], bool],
) -> Iterator[Event]:
    """Deltas of the tokens' text, then the end."""
    stopping = request.stopping
    eos = () if stopping.ignore_eos else loaded.info.eos_token_ids
    detokenizer = Detokenizer(lambda ids: _decode(loaded, ids))
    stop_strings = StopStrings(stopping.stop_strings)
    end: tuple[FinishReason, str | int | None] | None = None
    try:
        for token in tokens:
            progress.first_token = progress.first_token or time.monotonic()
            if is_cancelled():
                raise _CancelledError
            if token in stopping.stop_token_ids:
                end = (FinishReason.STOP_TOKEN, token)
                break
            if token in eos:
                end = (FinishReason.EOS, None)
                break
            progress.completion_tokens += 1
            progress.unsent.append(token)
            text, matched = stop_strings.add(detokenizer.add(token))
            if text or matched:
                yield progress.delta(text)
            if matched:
                yield progress.finished(FinishReason.STOP_STRING, matched)
                return
    except _CancelledError:
        yield progress.finished(FinishReason.CANCELLED)
        return
    text, matched = stop_strings.add(detokenizer.finish())
    text += "" if matched else stop_strings.finish()
    if text or progress.unsent:
        yield progress.delta(text)
    if matched:
        end = (FinishReason.STOP_STRING, matched)
    yield progress.finished(*(end or (_why_no_more(request, progress), None)))


def _why_no_more(request: GenerationRequest, progress: _Progress) -> FinishReason:
    allowed = request.stopping.max_tokens or DEFAULT_MAX_TOKENS
    filled = progress.completion_tokens < allowed
    return FinishReason.CONTEXT_FULL if filled else FinishReason.MAX_TOKENS


def _decode(loaded: LoadedModel, ids: list[int]) -> str:
    return loaded.tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
