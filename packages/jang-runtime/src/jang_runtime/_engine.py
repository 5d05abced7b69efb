"""The engine: one thread that owns every MLX object of a model.

Callers submit requests from any thread and receive events through a function that the engine's
thread calls; it has to hand them on (to a queue, to an event loop) and return at once. Requests
are served in the order in which they come, one at a time.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import mlx.core as mx

from jang_runtime._errors import (
    EngineStoppedError,
    GenerationError,
    InvalidRequestError,
    JangRuntimeError,
)
from jang_runtime._events import Event, Failed
from jang_runtime._generation import generate
from jang_runtime._model import LoadedModel, ModelInfo, load
from jang_runtime._requests import GenerationRequest

_log = logging.getLogger("jang_runtime")

Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Ticket:
    """A submitted request.

    Attributes:
        request: What was asked.
        listener: Receives the events, in the engine's thread.
        arrived: `time.monotonic()` of the submission.
    """

    request: GenerationRequest
    listener: Listener
    arrived: float
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Stop the request at its next step; no effect once it has ended."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()


class Engine:
    """A model, loaded and ready; use as a context manager, or call `close`.

    Args:
        path: The model's directory.
        name: The model's name; the directory's if None.

    Raises:
        ModelError: If the directory is no model that can be run.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        # None ends the thread.
        self._requests: SimpleQueue[Ticket | None] = SimpleQueue()
        self._loaded: SimpleQueue[ModelInfo | JangRuntimeError] = SimpleQueue()
        # Guards the moment between "no more requests" and the last look into the queue.
        self._closing = threading.Lock()
        self._closed = False
        self._current: Ticket | None = None
        self._thread = threading.Thread(
            target=self._run, args=(path, name), name="jang-engine", daemon=True
        )
        self._thread.start()
        outcome = self._loaded.get()
        if isinstance(outcome, JangRuntimeError):
            self._thread.join()
            raise outcome
        self.info: ModelInfo = outcome

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: GenerationRequest, listener: Listener) -> Ticket:
        """Queue a request; `listener` gets its events, the last one `Finished` or `Failed`.

        Raises:
            EngineStoppedError: If the engine has ended.
        """
        ticket = Ticket(request=request, listener=listener, arrived=time.monotonic())
        with self._closing:
            if self._closed:
                raise EngineStoppedError("the engine has stopped")
            self._requests.put(ticket)
        return ticket

    def close(self) -> None:
        """Cancel the request under way, fail those that wait, and end the thread."""
        with self._closing:
            self._closed = True
            self._requests.put(None)
            current = self._current
        if current is not None:
            current.cancel()
        self._thread.join()

    def _run(self, path: Path, name: str | None) -> None:
        """The engine's thread."""
        try:
            try:
                loaded = load(path, name)
            except JangRuntimeError as error:
                self._loaded.put(error)
                return
            # Whoever made the engine waits for an answer, whatever went wrong.
            except BaseException as error:
                self._loaded.put(GenerationError(f"loading {path} failed: {error!r}"))
                raise
            self._loaded.put(loaded.info)
            self._serve(loaded)
        finally:
            self._fail_waiting()
            # Without this a thread that used MLX can abort the process at exit.
            mx.clear_streams()

    def _serve(self, loaded: LoadedModel) -> None:
        while (ticket := self._requests.get()) is not None:
            with self._closing:
                self._current = ticket
                if self._closed:
                    ticket.cancel()
            _answer(loaded, ticket)
            self._current = None

    def _fail_waiting(self) -> None:
        with self._closing:
            self._closed = True
            while not self._requests.empty():
                ticket = self._requests.get()
                if ticket is not None:
                    ticket.listener(Failed(EngineStoppedError("the engine has stopped")))


def _answer(loaded: LoadedModel, ticket: Ticket) -> None:
    """Serve one request; its errors are its own."""
    try:
        for event in generate(loaded, ticket.request, ticket.is_cancelled, ticket.arrived):
            ticket.listener(event)
    except InvalidRequestError as error:
        ticket.listener(Failed(error))
    except Exception as error:  # noqa: BLE001 - a request that fails fails alone
        _log.exception("a request failed in the engine")
        ticket.listener(Failed(GenerationError(f"generation failed: {error!r}")))
