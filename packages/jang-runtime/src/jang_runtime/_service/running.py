"""One request of a server, from what was asked to its last event."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from jang_runtime._engine import Engine
from jang_runtime._errors import AbortedError, InvalidRequestError, JangRuntimeError
from jang_runtime._events import Event, Failed, Finished, FinishReason, Started, Timings
from jang_runtime._requests import (
    DEFAULT_MAX_TOKENS,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    Request,
    ScoreRequest,
    TextPrompt,
    TokenPrompt,
    check_request,
    time_limit,
    token_ids,
)
from jang_runtime._service.admission import Admission, Entry
from jang_runtime._service.calls import Call, current_call
from jang_runtime._service.lengths import check_continuation_lengths, check_prompt_length
from jang_runtime._service.mailbox import Mailbox
from jang_runtime._service.options import RequestLimits, ServiceOptions
from jang_runtime._service.texts import Texts

_Result = TypeVar("_Result")

# More streams than these pause longer, so that all together send no more messages than they; at
# most for so many times as long.
_STREAMS_AT_PAUSE: Final = 4
_MOST_PAUSES: Final = 2


@dataclass(frozen=True)
class Served:
    """What requests are run with, once it is loaded."""

    engine: Engine
    texts: Texts
    admission: Admission
    limits: RequestLimits
    options: ServiceOptions


async def run(served: Served, request: Request) -> AsyncGenerator[Event]:
    """The events of a request, `Failed` aside; it is cancelled when the caller stops listening.

    Raises:
        JangRuntimeError: If the request is refused or fails.
    """
    call, info = current_call(), served.engine.info
    check_request(request, info.vocabulary_size, info.context_length)
    _check_asked(request, served)
    with (
        served.admission.enter(call.caller, call.request_id) as entry,
        _wait_noted(call, entry),
    ):
        call.prompt_text = _prompt_text(request) if served.options.log_prompts else None
        try:
            async with asyncio.timeout(_seconds_left(entry, request)):
                tokens = await entry.result(served.texts.in_tokens(_within(request, served.limits)))
        except TimeoutError:
            yield _never_begun(call, entry, FinishReason.DEADLINE)
            return
        except AbortedError as error:
            if not _ends_well(request, error):
                raise
            yield _never_begun(call, entry, FinishReason.CANCELLED)
            return
        _check_tokens(tokens, served.limits)
        mailbox = Mailbox(served.options.max_unread_bytes, partial(_pause, served))
        ticket = served.engine.submit(tokens, mailbox.put, mailbox.has_room, entry.arrived)
        mailbox.bind(ticket.cancel, ticket.wake)
        entry.bind(ticket.cancel)
        try:
            while True:
                event = await mailbox.get()
                match event:
                    case Failed():
                        raise entry.error or event.error
                    case Started():
                        served.admission.begin(entry)
                        call.queue_seconds = entry.age
                        call.prompt_tokens = event.prompt_tokens
                    case Finished():
                        _note_end(call, event)
                        if entry.error is not None and not _ends_well(request, entry.error):
                            raise entry.error
                        yield event
                        return
                    case _:
                        pass
                yield event
        finally:
            ticket.cancel()


@contextmanager
def _wait_noted(call: Call, entry: Entry) -> Generator[None]:
    """Say how long a request has waited whose caller leaves before its work begins."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        if entry.is_waiting:
            call.queue_seconds = entry.age
        raise


def _seconds_left(entry: Entry, request: Request) -> float | None:
    """Of a request's own time limit; None without one."""
    limit = time_limit(request)
    return None if limit == float("inf") else limit - entry.age


async def run_with_texts(
    served: Served,
    work: Callable[[Texts], Coroutine[Any, Any, _Result]],
    characters: int = 0,
) -> _Result:
    """The result of something that texts alone are needed for, let in as a request is.

    Args:
        served: What there is.
        work: What is wanted of the texts.
        characters: Of its text, if that may be longer than a prompt.

    Raises:
        JangRuntimeError: If it is refused, fails or is ended.
    """
    call = current_call()
    with served.admission.enter(call.caller, call.request_id, characters) as entry:
        served.admission.begin(entry)
        return await entry.result(work(served.texts))


def _pause(served: Served) -> float:
    """Seconds at most that the tokens of a stream wait after a message: more with many streams."""
    times = served.admission.active / _STREAMS_AT_PAUSE
    return served.options.delta_seconds * min(max(times, 1), _MOST_PAUSES)


def _check_asked(request: Request, served: Served) -> None:
    """Hold a request against the server's own limits, as far as that needs no tokens."""
    limits = served.limits
    if isinstance(request, GenerationRequest):
        asked = request.stopping.max_tokens
        if asked is not None and asked > limits.max_tokens:
            raise InvalidRequestError("stopping.max_tokens", asked, f"1 to {limits.max_tokens}")
    fewest_of_prompt = served.texts.fewest_tokens(_prompt(request))
    check_prompt_length(_prompt_field(request), fewest_of_prompt, "or more ", limits)
    if isinstance(request, ScoreRequest):
        fewest = [
            served.texts.fewest_tokens_of_text(each) if isinstance(each, str) else len(each)
            for each in request.continuations
        ]
        check_continuation_lengths(fewest, "or more ", limits)


def _check_tokens(request: Request, limits: RequestLimits) -> None:
    """Hold a request in tokens against the server's own limits."""
    check_prompt_length(_prompt_field(request), len(token_ids(_prompt(request))), "", limits)
    if isinstance(request, ScoreRequest):
        check_continuation_lengths([len(each) for each in request.continuations], "", limits)


def _within(request: Request, limits: RequestLimits) -> Request:
    """The request; one that leaves its number of tokens to the server gets what is allowed."""
    if isinstance(request, GenerationRequest) and request.stopping.max_tokens is None:
        most = min(DEFAULT_MAX_TOKENS, limits.max_tokens)
        return replace(request, stopping=replace(request.stopping, max_tokens=most))
    return request


def _prompt(request: Request) -> Prompt:
    return request.context if isinstance(request, ScoreRequest) else request.prompt


def _prompt_field(request: Request) -> str:
    return "context" if isinstance(request, ScoreRequest) else "prompt"


def _prompt_text(request: Request) -> str:
    """What the log shows of a prompt."""
    match _prompt(request):
        case TextPrompt(text):
            return text
        case ChatPrompt(messages):
            return "\n".join(f"{turn.role}: {turn.content}" for turn in messages)
        case TokenPrompt(ids):
            return f"{len(ids)} tokens"


def _ends_well(request: Request, error: JangRuntimeError) -> bool:
    """Whether what was cancelled for this reason ends with `finished` all the same."""
    return isinstance(request, GenerationRequest) and isinstance(error, AbortedError)


def _never_begun(call: Call, entry: Entry, reason: FinishReason) -> Finished:
    """The end of a request that was stopped before the engine had it."""
    waited = Timings(queue=entry.age, prefill=0.0, decode=0.0)
    event = Finished(reason, None, 0, 0, waited)
    _note_end(call, event)
    return event


def _note_end(call: Call, event: Finished) -> None:
    call.cached_prompt_tokens = event.cached_prompt_tokens
    call.completion_tokens = event.completion_tokens
    call.finish_reason = event.reason.value
    call.queue_seconds = event.timings.queue
    call.prefill_seconds = event.timings.prefill
    call.decode_seconds = event.timings.decode
