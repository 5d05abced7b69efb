"""The engine: one thread that owns every MLX object of a model.

Callers submit requests from any thread and receive events through a function that the engine's
thread calls; it has to hand them on (to a queue, to an event loop) and return at once.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

import mlx.core as mx

from jang_runtime._errors import EngineStoppedError, GenerationError, JangRuntimeError
from jang_runtime._model import ModelInfo, load
from jang_runtime._options import EngineOptions
from jang_runtime._requests import Request
from jang_runtime._scheduler import Scheduler
from jang_runtime._statistics import EngineStatistics
from jang_runtime._tickets import Listener, Ticket

# None ends the thread; a function is called in it.
_Command: TypeAlias = Ticket | Callable[[Scheduler], None] | None


class Engine:
    """A model, loaded and ready; use as a context manager, or call `close`.

    Args:
        path: The model's directory.
        name: The model's name; the directory's if None.
        options: How it runs requests; the defaults if None.

    Attributes:
        path: As given.
        options: As given, or the defaults.
        info: The model's description.

    Raises:
        ModelError: If the directory is no model that can be run, or not with these options.
        InvalidRequestError: If an option is out of range.
    """

    def __init__(
        self, path: Path, name: str | None = None, options: EngineOptions | None = None
    ) -> None:
        self.path = path
        self.options = options or EngineOptions()
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._loaded: SimpleQueue[ModelInfo | JangRuntimeError] = SimpleQueue()
        # Guards the moment between "no more requests" and the last look into the queue.
        self._closing = threading.Lock()
        self._closed = False
        self._statistics = EngineStatistics()
        self._thread = threading.Thread(
            target=self._run,
            args=(path, name, self.options),
            name="jang-engine",
            daemon=True,
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

    @property
    def is_alive(self) -> bool:
        """Whether the engine takes requests."""
        return not self._closed and self._thread.is_alive()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the engine has ended, by `close` or by a fault; whether it has.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.
        """
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def statistics(self) -> EngineStatistics:
        """What the engine has done and holds, as of its last step; from any thread."""
        return self._statistics

    def submit(
        self,
        request: Request,
        listener: Listener,
        has_room: Callable[[], bool] = lambda: True,
    ) -> Ticket:
        """Queue a request; `listener` gets its events, the last one `Finished` or `Failed`.

        Args:
            request: What is asked.
            listener: Called in the engine's thread; it has to return at once.
            has_room: Whether the listener takes logits now, asked in the engine's thread; while
                not, none are computed. When that changes the ticket's `wake` has to be called.

        Raises:
            EngineStoppedError: If the engine has ended.
        """
        ticket = Ticket(request, listener, has_room, self._wake)
        self._command(ticket)
        return ticket

    def clear_prefix_cache(self) -> None:
        """Forget what is kept of earlier requests, and wait until that is done.

        Raises:
            EngineStoppedError: If the engine has ended.
        """
        done = threading.Event()

        def clear(scheduler: Scheduler) -> None:
            scheduler.clear_prefix_cache()
            self._statistics = scheduler.statistics()
            done.set()

        self._command(clear)
        while not done.wait(0.1):
            if not self._thread.is_alive() and not done.is_set():
                raise EngineStoppedError("the engine has stopped")

    def close(self) -> None:
        """Cancel the requests under way and those that wait, and end the thread."""
        with self._closing:
            self._closed = True
            self._commands.put(None)
        self._thread.join()

    def _wake(self) -> None:
        # An engine that has ended looks at nothing any more.
        self._commands.put(_look_again)

    def _command(self, command: _Command) -> None:
        with self._closing:
            if self._closed:
                raise EngineStoppedError("the engine has stopped")
            self._commands.put(command)

    def _run(self, path: Path, name: str | None, options: EngineOptions) -> None:
        """The engine's thread."""
        scheduler: Scheduler | None = None
        try:
            try:
                loaded = load(path, name)
                scheduler = Scheduler(loaded, options)
            except JangRuntimeError as error:
                self._loaded.put(error)
                return
            # Whoever made the engine waits for an answer, whatever went wrong.
            except BaseException as error:
                self._loaded.put(GenerationError(f"loading {path} failed: {error!r}"))
                raise
            self._statistics = scheduler.statistics()
            self._loaded.put(loaded.info)
            with _weights_wired():
                self._serve(scheduler)
        finally:
            self._end(scheduler)
            # Without this a thread that used MLX can abort the process at exit.
            mx.clear_streams()

    def _serve(self, scheduler: Scheduler) -> None:
        while True:
            waits = not scheduler.has_work(scheduler.look_outside())
            for command in self._new_commands(waits):
                if command is None:
                    scheduler.cancel_all()
                    return
                if isinstance(command, Ticket):
                    scheduler.submit(command)
                else:
                    command(scheduler)
            scheduler.step(scheduler.look_outside())
            self._statistics = scheduler.statistics()

    def _new_commands(self, wait: bool) -> list[_Command]:
        commands: list[_Command] = [self._commands.get()] if wait else []
        while True:
            try:
                commands.append(self._commands.get_nowait())
            except Empty:
                return commands

    def _end(self, scheduler: Scheduler | None) -> None:
        """Tell all that still wait, whether the engine was closed or its thread dies."""
        error = EngineStoppedError("the engine has stopped")
        with self._closing:
            self._closed = True
        if scheduler is not None:
            scheduler.stop(error)
            self._statistics = scheduler.statistics()
        for command in self._new_commands(wait=False):
            if isinstance(command, Ticket):
                command.fail(error)


def _look_again(scheduler: Scheduler) -> None:
    """A command that changes nothing but ends the wait for one."""


@contextmanager
def _weights_wired() -> Generator[None]:
    """Keep weights from being paged out between passes where that can be, on Metal."""
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    before = maybe_set_recommended_wired_limit()
    try:
        yield
    finally:
        if before is not None:
            mx.set_wired_limit(before)
