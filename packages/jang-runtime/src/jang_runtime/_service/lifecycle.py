"""The life of a server process: load, serve, drain, end."""

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jang_runtime._engine import Engine
from jang_runtime._errors import EngineStoppedError, InterruptedInThreadError
from jang_runtime._options import EngineOptions
from jang_runtime._ranks.group import LaunchedRanks, OneRank
from jang_runtime._service.background import in_thread
from jang_runtime._service.logs import log_event
from jang_runtime._service.options import ServiceOptions
from jang_runtime._service.server import Server

_log = logging.getLogger("jang_runtime")


# After the engine's death, for health checks to see it.
_AFTERLIFE_SECONDS: Final = 3.0
# After the second signal, for other ranks to be told of the end.
_LAST_STEP_SECONDS: Final = 1.0


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
        InterruptedInThreadError: If a signal came before the model was loaded or had answered
            once, or the second one before the engine's last step was done.
    """
    first, second = asyncio.Event(), asyncio.Event()
    server = Server(options, engine_options)
    _handle_signals(server, first, second)
    address = await server.listen()
    engine: Engine | None = None
    try:
        loading = in_thread(lambda: Engine(path, options=engine_options, connect=connect))
        if await _either(first, loading):
            raise InterruptedInThreadError("a signal came while the model was loaded")
        engine = await loading
        serving = asyncio.ensure_future(server.serve(engine))
        if await _either(first, serving):
            raise InterruptedInThreadError("a signal came while the model was warmed up")
        await serving
        announce(address, engine)
        await _until_the_end(server, options, first, second)
        if not engine.is_alive:
            raise EngineStoppedError("the engine has stopped; its log says why")
    finally:
        await server.stop()
        if engine is not None:
            await _close(engine, second)


async def _until_the_end(
    server: Server,
    options: ServiceOptions,
    first: asyncio.Event,
    second: asyncio.Event,
) -> None:
    failure = asyncio.ensure_future(server.wait_for_failure())
    if not await _either(first, failure):
        await _either(first, asyncio.ensure_future(asyncio.sleep(_AFTERLIFE_SECONDS)))
        return
    log_event(_log, "draining", {"seconds": options.drain_seconds})
    if await _either(second, asyncio.ensure_future(server.drain(options.drain_seconds))):
        await server.end_requests("the server ends at once")


async def _close(engine: Engine, second: asyncio.Event) -> None:
    """End the engine; after the second signal its last step is not waited for as long as it takes.

    Raises:
        EngineStoppedError: If another rank was lost, or does not answer.
        InterruptedInThreadError: If the step takes longer.
    """
    closing = in_thread(engine.close)
    await _one_of(second, closing)
    await asyncio.wait({closing}, timeout=_LAST_STEP_SECONDS)
    if not closing.done():
        raise InterruptedInThreadError("a second signal came before the engine had ended")
    await closing


def _handle_signals(server: Server, first: asyncio.Event, second: asyncio.Event) -> None:
    def end() -> None:
        (second if first.is_set() else first).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, server.reload_tokens)


async def _either(event: asyncio.Event, other: "asyncio.Future[Any]") -> bool:
    """Wait for one of the two; whether it was the event. Work that it ended is cancelled."""
    await _one_of(event, other)
    if event.is_set():
        other.cancel()
    return event.is_set()


async def _one_of(event: asyncio.Event, other: "asyncio.Future[Any]") -> None:
    """Wait for one of the two."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait({waiting, other}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
