"""The life of a server process: load, serve, drain, end."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from jang_runtime._engine import Engine
from jang_runtime._errors import EngineStoppedError, JangRuntimeError
from jang_runtime._options import EngineOptions
from jang_runtime._ranks.group import LaunchedRanks, OneRank
from jang_runtime._service.logs import log_event
from jang_runtime._service.options import ServiceOptions
from jang_runtime._service.server import Server

_log = logging.getLogger("jang_runtime")


class LoadInterruptedError(JangRuntimeError):
    """A signal came while the model was loaded; that goes on in a thread that nobody can stop."""


_Result = TypeVar("_Result")

# After the engine's death, for health checks to see it.
_AFTERLIFE_SECONDS: Final = 3.0


async def serve(
    path: Path,
    options: ServiceOptions,
    engine_options: EngineOptions,
    announce: Callable[[str, Engine], None],
    connect: Callable[[], OneRank | LaunchedRanks] = OneRank,
) -> None:
    """Load a model and serve it until SIGINT or SIGTERM.

    The first signal lets requests end, for the options' time; the second ends all at once. SIGHUP
    reads the file of tokens anew.

    Args:
        path: The model's directory.
        options: How to serve.
        engine_options: How requests are run.
        announce: Called with the address and the engine when requests are let in.
        connect: Finds the processes that run the model with this one.

    Raises:
        JangRuntimeError: If the model cannot be loaded or the address is not to be had.
        EngineStoppedError: If the engine failed.
        LoadInterruptedError: If a signal came before the model was loaded.
    """
    first, second = asyncio.Event(), asyncio.Event()
    server = Server(options, engine_options)
    _handle_signals(server, first, second)
    address = await server.listen()
    engine: Engine | None = None
    try:
        loading = _in_thread(lambda: Engine(path, options=engine_options, connect=connect))
        if await _either(first, loading):
            raise LoadInterruptedError("a signal came while the model was loaded")
        engine = await loading
        await server.serve(engine)
        announce(address, engine)
        await _until_the_end(server, engine, options, first, second)
    finally:
        await server.stop()
        if engine is not None:
            await asyncio.to_thread(engine.close)


async def _until_the_end(
    server: Server,
    engine: Engine,
    options: ServiceOptions,
    first: asyncio.Event,
    second: asyncio.Event,
) -> None:
    death = _in_thread(engine.join)
    if not await _either(first, death):
        log_event(_log, "the engine has stopped", {}, logging.ERROR)
        await server.fail()
        await _either(first, asyncio.ensure_future(asyncio.sleep(_AFTERLIFE_SECONDS)))
        raise EngineStoppedError("the engine has stopped; its log says why")
    log_event(_log, "draining", {"seconds": options.drain_seconds})
    if await _either(second, asyncio.ensure_future(server.drain(options.drain_seconds))):
        await server.end_requests("the server ends at once")


def _handle_signals(server: Server, first: asyncio.Event, second: asyncio.Event) -> None:
    def end() -> None:
        (second if first.is_set() else first).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, server.reload_tokens)


async def _either(event: asyncio.Event, other: "asyncio.Future[_Result]") -> bool:
    """Wait for one of the two; whether it was the event. Work that it ended is cancelled."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait({waiting, other}, return_when=asyncio.FIRST_COMPLETED)
    if event.is_set():
        other.cancel()
    else:
        waiting.cancel()
    return event.is_set()


def _in_thread(work: Callable[[], _Result]) -> "asyncio.Future[_Result]":
    """The result of something that may outlast the process's end, in a daemon thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        # Whatever it is, the one who waits gets it.
        except BaseException as error:  # noqa: BLE001
            _tell(loop, lambda error=error: future.cancelled() or future.set_exception(error))
        else:
            _tell(loop, lambda: future.cancelled() or future.set_result(result))

    threading.Thread(target=run, name="jang-waiter", daemon=True).start()
    return future


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
