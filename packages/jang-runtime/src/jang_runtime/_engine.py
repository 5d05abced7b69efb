"""The engine: one thread that owns every MLX object of a model.

Callers submit requests from any thread and receive events through a function that the engine's
thread calls; it has to hand them on (to a queue, to an event loop) and return at once.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

import mlx.core as mx

from jang_runtime._errors import EngineStoppedError, GenerationError, JangRuntimeError
from jang_runtime._memory import give_back, weights_wired
from jang_runtime._model import ModelInfo
from jang_runtime._options import EngineOptions
from jang_runtime._outside import seconds_to_deadline
from jang_runtime._ranks.group import LaunchedRanks, OneRank, Ranks
from jang_runtime._ranks.lifeline import hold
from jang_runtime._ranks.start import start
from jang_runtime._ranks.steps import tell
from jang_runtime._requests import GenerationRequest, Request
from jang_runtime._sampling import seeded
from jang_runtime._scheduler import Scheduler
from jang_runtime._service.logs import log_event
from jang_runtime._statistics import EngineStatistics
from jang_runtime._tickets import Listener, Ticket

_log = logging.getLogger("jang_runtime")

# A rank that is gone without a word is waited for as long as TCP does, which is many minutes.
_LAST_STEP_SECONDS: Final = 20.0


class _Signal(Enum):
    END = 0
    # Something that the scheduler looks at has changed.
    LOOK = 1


# An event asks for the prefix cache to be cleared, and is set once that is done.
_Command: TypeAlias = Ticket | threading.Event | _Signal

# Without anything to do, after which memory for reuse goes back to the system.
_IDLE_SECONDS: Final = 1.0


class Engine:
    """A model, loaded and ready; use as a context manager, or call `close`.

    Args:
        path: The model's directory.
        name: The model's name; the directory's if None.
        options: How it runs requests; the defaults if None.
        connect: Finds the processes that run the model with this one, in the engine's thread.

    Attributes:
        path: As given.
        options: As given, or the defaults.
        info: The model's description.
        load_seconds: How long it took to load.

    Raises:
        ModelError: If the directory is no model that can be run, or not with these options.
        InvalidRequestError: If an option is out of range.
        EngineStoppedError: If the processes do not come together.
    """

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        options: EngineOptions | None = None,
        connect: Callable[[], OneRank | LaunchedRanks] = OneRank,
    ) -> None:
        self.path = path
        self.options = options or EngineOptions()
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._loaded: SimpleQueue[ModelInfo | JangRuntimeError] = SimpleQueue()
        # Guards the moment between "no more requests" and the last look into the queue.
        self._closing = threading.Lock()
        self._closed = False
        # Whether somebody tells, or has told, all that still wait of the end.
        self._is_ending = False
        self._statistics = EngineStatistics()
        self._ended = threading.Event()
        # Of the other ranks, which ended the engine.
        self._loss: EngineStoppedError | None = None
        # Whether it has ended but for its thread, which may never come to its end.
        self._is_abandoned = False
        self._thread = threading.Thread(
            target=self._run,
            args=(path, name, self.options, connect),
            name="jang-engine",
            daemon=True,
        )
        began = time.monotonic()
        self._thread.start()
        outcome = self._loaded.get()
        self.load_seconds = time.monotonic() - began
        if isinstance(outcome, JangRuntimeError):
            self.join()
            raise outcome
        self.info: ModelInfo = outcome

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether the engine takes requests."""
        return not self._closed and not self._ended.is_set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the engine has ended, by `close` or by a fault; whether it has.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.
        """
        has_ended = self._ended.wait(timeout)
        if has_ended and not self._is_abandoned:
            self._thread.join()
        return has_ended

    def statistics(self) -> EngineStatistics:
        """What the engine has done and holds, as of its last step; from any thread."""
        return self._statistics

    def submit(
        self,
        request: Request,
        listener: Listener,
        has_room: Callable[[], bool] = lambda: True,
        arrived: float | None = None,
    ) -> Ticket:
        """Queue a request; `listener` gets its events, the last one `Finished` or `Failed`.

        Args:
            request: What is asked.
            listener: Called in the engine's thread; it has to return at once.
            has_room: Whether the listener takes logits now, asked in the engine's thread; while
                not, none are computed. When that changes the ticket's `wake` has to be called.
            arrived: `time.monotonic()` since when it waits and its time runs; now if None.

        Raises:
            EngineStoppedError: If the engine has ended.
        """
        if isinstance(request, GenerationRequest):
            # Other processes have to draw the same.
            request = replace(request, sampling=seeded(request.sampling))
        arrived = time.monotonic() if arrived is None else arrived
        ticket = Ticket(request, listener, has_room, self._wake, arrived)
        self._command(ticket)
        return ticket

    def clear_prefix_cache(self) -> None:
        """Forget what is kept of earlier requests, and wait until that is done.

        Raises:
            EngineStoppedError: If the engine has ended.
        """
        done = threading.Event()

        self._command(done)
        while not done.wait(0.1):
            if self._ended.is_set() and not done.is_set():
                raise EngineStoppedError("the engine has stopped")

    def close(self) -> None:
        """Cancel the requests under way and those that wait, and end the thread.

        Raises:
            EngineStoppedError: If another rank was lost, or does not answer; the thread may never
                end then.
        """
        with self._closing:
            self._closed = True
            self._commands.put(_Signal.END)
        if not self.join(_LAST_STEP_SECONDS if self.info.ranks > 1 else None):
            raise EngineStoppedError("the engine cannot end: another rank does not answer")
        if self._loss is not None:
            raise self._loss

    def _wake(self) -> None:
        # An engine that has ended looks at nothing any more.
        self._commands.put(_Signal.LOOK)

    def _command(self, command: _Command) -> None:
        with self._closing:
            if self._closed:
                raise EngineStoppedError("the engine has stopped")
            self._commands.put(command)

    def _run(
        self,
        path: Path,
        name: str | None,
        options: EngineOptions,
        connect: Callable[[], OneRank | LaunchedRanks],
    ) -> None:
        """The engine's thread."""
        scheduler: Scheduler | None = None
        error = EngineStoppedError("the engine has stopped")
        try:
            try:
                ranks = connect()
                if isinstance(ranks, LaunchedRanks):
                    loss = ranks.loss("its connection has closed")
                    hold(ranks, lambda: self._abandon(scheduler, loss))
                info, scheduler = start(path, name, options, ranks)
            except JangRuntimeError as its_error:
                self._loaded.put(its_error)
                return
            # Whoever made the engine waits for an answer, whatever went wrong.
            except BaseException as its_error:
                self._loaded.put(GenerationError(f"loading {path} failed: {its_error!r}"))
                raise
            self._statistics = scheduler.statistics()
            self._loaded.put(info)
            with weights_wired():
                self._serve(scheduler, ranks)
        except EngineStoppedError as its_error:
            _log.error("%s", its_error)
            self._loss = error = its_error
        # The thread ends here, whatever it was; whoever asks for something is told that it has.
        except BaseException as its_error:  # noqa: BLE001
            log_event(_log, "fault", {"thread": "jang-engine"}, logging.ERROR, its_error)
        finally:
            self._end(scheduler, error)
            # Without this a thread that used MLX can abort the process at exit.
            mx.clear_streams()
            self._ended.set()

    def _serve(self, scheduler: Scheduler, ranks: Ranks) -> None:
        idle_steps = 0
        while True:
            has_work = scheduler.has_work(scheduler.look_outside())
            idle_steps = 0 if has_work else idle_steps + 1
            rests = ranks.rest(idle_steps), seconds_to_deadline(scheduler.open_tickets())
            wait = min((seconds for seconds in rests if seconds is not None), default=None)
            commands = self._new_commands(0 if has_work else wait)
            tickets = [command for command in commands if isinstance(command, Ticket)]
            cleared = [command for command in commands if isinstance(command, threading.Event)]
            ends = _Signal.END in commands
            for ticket in tickets:
                scheduler.submit(ticket)
            outside = scheduler.look_outside()
            tell(ranks, scheduler, tickets, outside, clears=bool(cleared), ends=ends)
            if ends:
                scheduler.cancel_all()
                return
            if cleared:
                scheduler.clear_prefix_cache()
                self._statistics = scheduler.statistics()
            for event in cleared:
                event.set()
            scheduler.step(outside)
            self._statistics = scheduler.statistics()

    def _new_commands(self, wait: float | None) -> list[_Command]:
        """Those that have come; for the first one `wait` seconds at most, or for ever."""
        commands: list[_Command] = []
        try:
            if wait != 0:
                commands.append(self._first(wait))
            while True:
                commands.append(self._next())
        except Empty:
            return commands

    def _first(self, wait: float | None) -> _Command:
        if wait is not None:
            return self._commands.get(timeout=wait)
        try:
            return self._commands.get(timeout=_IDLE_SECONDS)
        except Empty:
            # What MLX and malloc keep for the next step is not kept for a server nobody calls.
            mx.clear_cache()
            give_back()
            return self._commands.get()

    def _next(self) -> _Command:
        return self._commands.get_nowait()

    def _abandon(self, scheduler: Scheduler | None, error: EngineStoppedError) -> None:
        """Tell all that still wait, while the engine's thread waits in MLX for a rank that is gone.

        In another thread, so nothing of MLX is touched.
        """
        if not self._begin_to_end():
            return
        _log.error("%s", error)
        self._loaded.put(error)
        begun = () if scheduler is None else scheduler.open_tickets()
        queued = [command for command in self._new_commands(0) if isinstance(command, Ticket)]
        for ticket in (*begun, *queued):
            ticket.fail(error)
        self._loss = error
        self._is_abandoned = True
        self._ended.set()

    def _end(self, scheduler: Scheduler | None, error: EngineStoppedError) -> None:
        """Tell all that still wait, whether the engine was closed or its thread dies."""
        if not self._begin_to_end():
            return
        if scheduler is not None:
            scheduler.stop(error)
            self._statistics = scheduler.statistics()
        for command in self._new_commands(0):
            if isinstance(command, Ticket):
                command.fail(error)

    def _begin_to_end(self) -> bool:
        """Let nobody in any more; whether this is the first to do so, who tells those that wait."""
        with self._closing:
            is_first = not self._is_ending
            self._closed = self._is_ending = True
        return is_first
