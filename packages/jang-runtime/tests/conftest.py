"""Fixtures of this package's tests."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from jang_runtime import Engine, Server, ServiceOptions, start_server


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Server]]:
    """Serves an engine in a thread with an event loop of its own: `with serving(engine) as server`.

    The server has the loop as its attribute `loop`, for tests that call its coroutines.
    """

    @contextmanager
    def serve(engine: Engine, options: ServiceOptions | None = None) -> Iterator[Server]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def run(coroutine: object) -> object:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)  # type: ignore[arg-type]

        try:
            server = run(start_server(engine, options=options))
            assert isinstance(server, Server)
            server.loop = loop  # type: ignore[attr-defined]
            yield server
            run(server.stop())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return serve
