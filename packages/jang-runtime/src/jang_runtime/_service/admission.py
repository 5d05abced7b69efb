"""Which requests are under way: how many may wait, what they are called, and how they are ended."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from jang_runtime._errors import (
    AbortedError,
    JangRuntimeError,
    NotServingError,
    QueueFullError,
    RequestIdInUseError,
)

_Result = TypeVar("_Result")

_LOADING_RETRY_SECONDS: Final = 2.0
# What a caller is told to wait, and how much the last request counts in the mean.
_SHORTEST_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 60.0
_NEWEST_WEIGHT: Final = 0.1


@dataclass(eq=False)
class Entry:
    """A request under way.

    Attributes:
        caller: Who asked.
        request_id: The caller's name for it.
        arrived: `time.monotonic()` of its arrival.
        is_waiting: Whether no work for it has begun.
        error: Why it is being ended before its time; None if it is not.
    """

    caller: str
    request_id: str
    arrived: float
    is_waiting: bool = True
    error: JangRuntimeError | None = None
    _cancel: Callable[[], object] | None = field(default=None, repr=False)

    @property
    def age(self) -> float:
        """Seconds since its arrival."""
        return time.monotonic() - self.arrived

    def bind(self, cancel: Callable[[], object]) -> None:
        """Say how the request is cancelled at this point of its life."""
        self._cancel = cancel
        if self.error is not None:
            cancel()

    async def result(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of something that the request needs; it is cancelled if the request is ended.

        Raises:
            JangRuntimeError: Why it was ended.
        """
        task = asyncio.ensure_future(work)
        self.bind(task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            if self.error is not None:
                raise self.error from None
            raise

    def end(self, error: JangRuntimeError) -> None:
        """Cancel the request; the first reason counts."""
        self.error = self.error or error
        if self._cancel is not None:
            self._cancel()


class Admission:
    """The door of a server; belongs to its event loop.

    Args:
        max_queued: Requests that may wait, beside those that the engine runs.
        max_characters: Of texts of any length that may wait, all together.
    """

    def __init__(self, max_queued: int, max_characters: int) -> None:
        self._max_queued = max_queued
        self._max_open = max_queued
        self._max_characters = max_characters
        self._characters = 0
        # Numbers, not a look into the entries: the page of metrics asks from other threads.
        self._waiting, self._begun = 0, 0
        self._entries: dict[tuple[str, str], Entry] = {}
        self._closed: JangRuntimeError | None = NotServingError(
            "the server is loading its model", _LOADING_RETRY_SECONDS
        )
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._mean_seconds = 1.0

    @property
    def queued(self) -> int:
        """Requests that wait; from any thread."""
        return self._waiting

    @property
    def active(self) -> int:
        """Requests under way; from any thread."""
        return self._begun

    @property
    def open(self) -> int:
        """Requests that wait or are under way."""
        return len(self._entries)

    def open_door(self, places: int) -> None:
        """Let requests in; the engine runs so many at once."""
        self._max_open = self._max_queued + places
        self._closed = None

    def close_door(self, error: JangRuntimeError) -> None:
        """Let no more requests in, and say why."""
        self._closed = error

    def check_door(self) -> None:
        """Refuse a call that needs the model.

        Raises:
            JangRuntimeError: Why none is let in.
        """
        if self._closed is not None:
            raise self._closed

    @contextmanager
    def enter(self, caller: str, request_id: str, characters: int = 0) -> Generator[Entry]:
        """Let a request in, until the block ends.

        Args:
            caller: Who asks.
            request_id: The caller's name for it.
            characters: Of its text, if that may be longer than a prompt.

        Raises:
            JangRuntimeError: Why it is not let in.
        """
        self.check_door()
        key = (caller, request_id)
        if key in self._entries:
            raise RequestIdInUseError(f"x-request-id: found {request_id!r}, which is under way")
        # Not those that wait: a burst waits for a moment although the engine has places free.
        if self.open >= self._max_open:
            raise QueueFullError(self._max_open, self._retry_seconds())
        if characters and self._characters + characters > self._max_characters:
            raise QueueFullError(self._max_characters, self._retry_seconds(), "characters of texts")
        entry = Entry(caller, request_id, time.monotonic())
        self._entries[key] = entry
        self._waiting += 1
        self._characters += characters
        self._is_empty.clear()
        try:
            yield entry
        finally:
            del self._entries[key]
            self._characters -= characters
            if entry.is_waiting:
                self._waiting -= 1
            else:
                self._begun -= 1
            if not self._entries:
                self._is_empty.set()
            self._mean_seconds += _NEWEST_WEIGHT * (entry.age - self._mean_seconds)

    def begin(self, entry: Entry) -> None:
        """Say that a request waits no longer."""
        if entry.is_waiting:
            entry.is_waiting = False
            self._waiting -= 1
            self._begun += 1

    def abort(self, caller: str, request_id: str) -> bool:
        """Stop a caller's request; whether there is one of that name."""
        entry = self._entries.get((caller, request_id))
        if entry is None:
            return False
        entry.end(AbortedError(f"the request {request_id!r} was aborted"))
        return True

    def end_all(self, error: JangRuntimeError) -> None:
        """Stop every request."""
        for entry in list(self._entries.values()):
            entry.end(error)

    async def wait_until_empty(self, seconds: float) -> bool:
        """Wait until no request is under way; whether that came true in time."""
        try:
            await asyncio.wait_for(self._is_empty.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _retry_seconds(self) -> float:
        """When a place should be free, if those inside end as regularly as others have lately."""
        wait = self._mean_seconds / max(self.open, 1)
        return min(max(wait, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
