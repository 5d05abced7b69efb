"""Work in threads that an event loop's end does not wait for, as it does for asyncio's own."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def in_thread(work: Callable[[], _Result]) -> "asyncio.Future[_Result]":
    """The result of something that may outlast the running event loop, in a daemon thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        # Whatever it is, the one who waits gets it.
        except BaseException as error:  # noqa: BLE001
            call_soon(loop, lambda error=error: future.cancelled() or future.set_exception(error))
        else:
            call_soon(loop, lambda: future.cancelled() or future.set_result(result))

    threading.Thread(target=run, name="jang-waiter", daemon=True).start()
    return future


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Call a function in an event loop's thread, from any other; not if the loop has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
