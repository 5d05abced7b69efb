"""Answers on a terminal: text as it comes, and conversations."""

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TextIO

from jang_runtime._engine import Engine
from jang_runtime._events import Delta, Event, Failed, Finished, TokenLogprobs
from jang_runtime._requests import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    Request,
    Sampling,
    Stopping,
    TextPrompt,
)


def stream_events(engine: Engine, request: Request) -> Generator[Event, None, None]:
    """The events of one request, as they come; closing the generator cancels it.

    Raises:
        JangRuntimeError: If the request fails.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    ticket = engine.submit(request, events.put)
    try:
        while True:
            event = events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Finished):
                return
    finally:
        ticket.cancel()


def prompt_for(engine: Engine, text: str) -> Prompt:
    """A question in the form that the model understands: a conversation, or plain text."""
    if engine.info.has_chat_template:
        return ChatPrompt((ChatMessage("user", text),))
    return TextPrompt(text)


@dataclass(frozen=True)
class Answer:
    """A whole answer, its log-probabilities if they were asked for, and its end."""

    text: str
    logprobs: tuple[TokenLogprobs, ...]
    finished: Finished


def write_answer(engine: Engine, request: GenerationRequest, out: TextIO) -> Answer:
    """Write an answer as it is generated.

    Raises:
        JangRuntimeError: If the request fails.
    """
    parts: list[str] = []
    logprobs: list[TokenLogprobs] = []
    with closing(stream_events(engine, request)) as events:
        for event in events:
            match event:
                case Delta(text):
                    parts.append(text)
                    logprobs += event.logprobs
                    out.write(text)
                    out.flush()
                case Finished():
                    out.write("\n")
                    return Answer("".join(parts), tuple(logprobs), event)
                case _:
                    pass
    raise AssertionError("a request ends with Finished or Failed")


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """An answer as programs read it."""
    finished = answer.finished
    document: dict[str, Any] = {
        "text": answer.text,
        "finish_reason": finished.reason.value,
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "prefill_seconds": finished.timings.prefill,
        "decode_seconds": finished.timings.decode,
    }
    if answer.logprobs:
        document["logprobs"] = [
            {
                "token_id": entry.token_id,
                "logprob": entry.logprob,
                "rank": entry.rank,
                "top": [{"token_id": token, "logprob": value} for token, value in entry.top],
            }
            for entry in answer.logprobs
        ]
    return document


def chat(engine: Engine, sampling: Sampling, stopping: Stopping) -> None:
    """Talk with the model on the terminal until end of input; Ctrl-C stops an answer.

    Raises:
        JangRuntimeError: If a request fails.
    """
    print("Ctrl-D ends the conversation, Ctrl-C stops an answer.", file=sys.stderr)
    turns: list[ChatMessage] = []
    for text in _lines():
        turns.append(ChatMessage("user", text))
        prompt = ChatPrompt(tuple(turns)) if engine.info.has_chat_template else TextPrompt(text)
        request = GenerationRequest(prompt=prompt, sampling=sampling, stopping=stopping)
        try:
            answer = write_answer(engine, request, sys.stdout)
        except KeyboardInterrupt:
            # The model has not said it: the next turn begins where this one did.
            turns.pop()
            print("\n(stopped)", file=sys.stderr)
            continue
        turns.append(ChatMessage("assistant", answer.text))


def _lines() -> Iterator[str]:
    """What the user types, until end of input or Ctrl-C at the prompt."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip():
            yield line


def quiet_libraries() -> None:
    """Keep transformers from advising to install PyTorch, which nothing here needs."""
    # Its logger sets its own level when it is imported, so the level cannot be set here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def describe_speed(finished: Finished) -> str:
    """Tokens and tokens per second of a request, in a line for people."""
    timings = finished.timings
    prefill = finished.prompt_tokens / timings.prefill if timings.prefill > 0 else 0.0
    # The first token belongs to the prompt's time.
    decoded = finished.completion_tokens - 1
    decode = decoded / timings.decode if timings.decode > 0 and decoded > 0 else 0.0
    return (
        f"prompt {finished.prompt_tokens} tokens at {prefill:.1f}/s, "
        f"answer {finished.completion_tokens} tokens at {decode:.1f}/s"
    )
