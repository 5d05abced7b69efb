"""Submitted requests."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from jang_runtime._errors import JangRuntimeError
from jang_runtime._events import Event, Failed
from jang_runtime._requests import Request, time_limit

_log = logging.getLogger("jang_runtime")

Listener: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A submitted request.

    Attributes:
        request: What was asked.
        listener: Receives the events, in the engine's thread.
        has_room: Whether the listener takes large results now; while not, none are computed. When
            that changes `wake` has to be called.
        wake: Tells the engine to look again, from any thread.
        arrived: `time.monotonic()` since when it waits.
    """

    request: Request
    listener: Listener
    has_room: Callable[[], bool]
    wake: Callable[[], None]
    arrived: float = field(default_factory=time.monotonic)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def deadline(self) -> float:
        """`time.monotonic()` at which a generation has to end; infinite without a limit."""
        return self.arrived + time_limit(self.request)

    def cancel(self) -> None:
        """Stop the request at its next step; no effect once it has ended."""
        self._cancelled.set()
        self.wake()

    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def fail(self, error: JangRuntimeError) -> None:
        """Send the last event of a request that failed, whatever its listener makes of it."""
        try:
            self.listener(Failed(error))
        # The engine's thread may be about to end, and others wait to be told.
        except BaseException:  # noqa: BLE001
            _log.exception("a listener failed")
