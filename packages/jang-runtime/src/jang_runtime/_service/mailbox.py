"""Events of one request on their way from the engine's thread to its reader on an event loop."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from jang_runtime._errors import SlowReaderError
from jang_runtime._events import Delta, Event, Logits, PromptLogprobs, TokenLogprobs

# About what Python's objects for them take.
_TOKEN_BYTES: Final = 64
_LOGPROB_BYTES: Final = 128
_LARGE: Final = (Logits, PromptLogprobs)


def _no_pause() -> float:
    return 0.0


class Mailbox:
    """A bounded buffer; made on the event loop of its reader.

    Deltas that wait are handed out as one, and wait for a pause after another one: each message
    wakes threads of server and client, which take the processor from the model. Their reader is
    given up when more than `limit` bytes of them wait. Large results, which are logits and
    log-probabilities of prompts, are not computed while some wait, if the engine asks `has_room`.

    Args:
        limit: Bytes of deltas.
        pause: Says after a delta for how many seconds at most others wait; whatever else comes
            ends the pause. Pauses of one length end together, so that one waking serves all.
    """

    def __init__(self, limit: int, pause: Callable[[], float] = _no_pause) -> None:
        self._limit = limit
        self._pause = pause
        self._is_paused = False
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._delta_bytes = 0
        self._large = 0
        self._has_overflowed = False
        self._is_announced = False
        self._cancel: Callable[[], None] = _nothing
        self._wake: Callable[[], None] = _nothing

    def bind(self, cancel: Callable[[], None], wake: Callable[[], None]) -> None:
        """Say how the request is given up, and how the engine is told that there is room."""
        self._cancel, self._wake = cancel, wake

    def put(self, event: Event) -> None:
        """Take an event; called in the engine's thread."""
        with self._lock:
            if self._has_overflowed:
                return
            if isinstance(event, Delta):
                self._delta_bytes += _size(event)
                if self._delta_bytes > self._limit:
                    self._has_overflowed = True
                    self._events.clear()
                    self._cancel()
            self._large += isinstance(event, _LARGE)
            if not self._has_overflowed:
                self._events.append(event)
            waits = self._is_paused and isinstance(event, Delta) and not self._has_overflowed
            announce = not self._is_announced and not waits
            self._is_announced |= announce
        # The loop is closed if the server ended before the engine.
        if announce and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)

    def has_room(self) -> bool:
        """Whether large results may come; asked in the engine's thread."""
        return self._large == 0

    async def get(self) -> Event:
        """The next event.

        Raises:
            SlowReaderError: If it was read too slowly.
        """
        while True:
            await self._arrived.wait()
            with self._lock:
                if self._has_overflowed:
                    raise SlowReaderError(
                        f"results: found more than {self._limit} bytes that were not read, "
                        "expected a reader that keeps up"
                    )
                if self._events:
                    event = self._taken()
                    break
                # It was announced twice: by whoever put it, and at the end of a pause.
                self._arrived.clear()
                self._is_announced = False
        if isinstance(event, _LARGE):
            self._wake()
        return event

    def _taken(self) -> Event:
        event = self._next()
        if not self._events:
            self._arrived.clear()
            self._is_announced = False
            pause = self._pause() if isinstance(event, Delta) else 0.0
            self._is_paused = pause > 0
            if self._is_paused:
                now = self._loop.time()
                self._loop.call_at(now - now % pause + pause, self._end_pause)
        return event

    def _end_pause(self) -> None:
        with self._lock:
            self._is_paused = False
            self._is_announced = bool(self._events)
        if self._is_announced:
            self._arrived.set()

    def _next(self) -> Event:
        event = self._events.popleft()
        if isinstance(event, _LARGE):
            self._large -= 1
        if not isinstance(event, Delta):
            return event
        deltas = [event]
        while self._events and isinstance(following := self._events[0], Delta):
            deltas.append(following)
            self._events.popleft()
        self._delta_bytes -= sum(_size(each) for each in deltas)
        return deltas[0] if len(deltas) == 1 else _joined(deltas)


def _joined(deltas: Sequence[Delta]) -> Delta:
    return Delta(
        text="".join(each.text for each in deltas),
        token_ids=tuple(token for each in deltas for token in each.token_ids),
        logprobs=tuple(entry for each in deltas for entry in each.logprobs),
    )


def _size(delta: Delta) -> int:
    return (
        4 * len(delta.text)
        + _TOKEN_BYTES * len(delta.token_ids)
        + sum(_logprobs_size(entry) for entry in delta.logprobs)
    )


def _logprobs_size(entry: TokenLogprobs) -> int:
    return _LOGPROB_BYTES * (1 + len(entry.top))


def _nothing() -> None:
    pass
