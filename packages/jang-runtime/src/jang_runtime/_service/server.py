"""A server from its first open port to its end."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import grpc

from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._engine import Engine
from jang_runtime._errors import EngineStoppedError, NotServingError
from jang_runtime._events import Event, Failed, Finished
from jang_runtime._options import EngineOptions
from jang_runtime._requests import GenerationRequest, Stopping, TokenPrompt
from jang_runtime._service.access import TokenFile
from jang_runtime._service.admission import Admission
from jang_runtime._service.background import call_soon, in_thread
from jang_runtime._service.calls import CallInterceptor
from jang_runtime._service.logs import log_event
from jang_runtime._service.metrics import Metrics, ServiceLoad
from jang_runtime._service.options import ServiceOptions, check_service_options
from jang_runtime._service.scraping import metrics_served
from jang_runtime._service.servicer import RuntimeServicer
from jang_runtime._service.standards import add_health, add_reflection
from jang_runtime._service.texts import Texts
from jang_runtime._service.transport import Address, bind, parse_address, refuse_open

_log = logging.getLogger("jang_runtime")

# For calls to be told of their end after the requests behind them were cancelled.
_LAST_WORDS_SECONDS: Final = 2.0
# For watchers of health to read that this was the last word; nobody waits where there are none.
_GOODBYE_SECONDS: Final = 0.5
# Of one connection: probes, questions about the server, calls that are about to be refused.
_STREAMS_WITHOUT_PLACES: Final = 100
# As large as a message can be, which may wait to be made tokens of.
_MOST_TEXTS: Final = 4


class Server:
    """A gRPC server for one engine; belongs to one event loop.

    `listen` opens the port, where health is NOT_SERVING; `serve` begins to answer; `drain` lets
    requests end; `stop` ends all.

    Args:
        options: How it serves.
        engine_options: The engine's, for what the server says of itself.

    Raises:
        ListenError: If it would be open to everybody, or a file of tokens or of TLS is no good.
        InvalidRequestError: If an option is out of range.
    """

    def __init__(self, options: ServiceOptions, engine_options: EngineOptions) -> None:
        check_service_options(options)
        self._options = options
        self._listen = _allowed_address("--listen", options.listen, options)
        self._metrics_listen = (
            _allowed_address("--metrics", options.metrics_listen, options)
            if options.metrics_listen is not None
            else None
        )
        self._tokens = TokenFile(options.token_file) if options.token_file is not None else None
        self.metrics = Metrics()
        self._admission = Admission(options.max_queued, _MOST_TEXTS * options.max_message_bytes)
        self._servicer = RuntimeServicer(self._admission, options)
        self._grpc = grpc.aio.server(
            interceptors=[CallInterceptor(self._tokens, self.metrics, _log)],
            options=_channel_options(options, engine_options),
        )
        runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(self._servicer, self._grpc)
        self._health = add_health(self._grpc)
        add_reflection(self._grpc)
        self._texts: Texts | None = None
        self._watching: asyncio.Future[None] | None = None
        # What is open beside gRPC.
        self._open = ExitStack()
        self.address = ""
        self.metrics_address = ""

    async def listen(self) -> str:
        """Open the ports; calls are refused until `serve`. Returns the address.

        Raises:
            ListenError: If an address is not to be had.
        """
        self.address = str(bind(self._grpc, self._listen, self._options.tls))
        if self._metrics_listen is not None:
            served = metrics_served(
                self.metrics, self._metrics_listen, self._options.tls, self._tokens
            )
            self.metrics_address = str(self._open.enter_context(served))
        await self._grpc.start()
        return self.address

    async def serve(self, engine: Engine) -> None:
        """Run a request to warm the engine up, then let others in.

        Raises:
            JangRuntimeError: If that request fails.
        """
        began = time.monotonic()
        texts = await in_thread(lambda: Texts(engine.path))
        self._texts = texts
        await _warm_up(engine)
        load_seconds = engine.load_seconds + time.monotonic() - began
        self._servicer.serve(engine, texts, load_seconds)
        self.metrics.watch(engine.statistics, lambda: self._load(engine))
        self._admission.open_door(engine.statistics().places)
        self._health.set(True)
        self._watching = asyncio.ensure_future(self._fail_with(engine))

    async def drain(self, seconds: float) -> None:
        """Let nobody in, wait for those inside, and end those that are left after `seconds`."""
        self._health.set(False)
        self._admission.close_door(NotServingError("the server is about to end", None))
        if not await self._admission.wait_until_empty(seconds):
            log_event(_log, "drain time is over", {"open": self._admission.open}, logging.WARNING)
        await self.end_requests("the server ends, its drain time is over")

    async def end_requests(self, why: str) -> None:
        """End the requests inside, which are told that the server is about to end and why."""
        self._admission.end_all(NotServingError(why, None))
        await self._admission.wait_until_empty(_LAST_WORDS_SECONDS)

    async def wait_for_failure(self) -> None:
        """Wait until the engine has ended, and everybody was told."""
        assert self._watching is not None, "it serves"
        await asyncio.shield(self._watching)

    async def _fail_with(self, engine: Engine) -> None:
        """When the engine has ended, say so to those inside and to those that come."""
        await in_thread(engine.join)
        log_event(_log, "the engine has stopped", {}, logging.ERROR)
        self._health.set(False)
        error = EngineStoppedError("the engine has stopped")
        self._admission.close_door(error)
        self._admission.end_all(error)
        await self._admission.wait_until_empty(_LAST_WORDS_SECONDS)

    async def stop(self) -> None:
        """Close connections and ports; calls that do not end by themselves are cancelled."""
        if self._watching is not None:
            self._watching.cancel()
        self._health.end()
        await self._grpc.stop(_GOODBYE_SECONDS)
        await asyncio.to_thread(self._open.close)
        if self._texts is not None:
            self._texts.close()

    def reload_tokens(self) -> None:
        """Read the file of tokens anew; the old ones stay if it is no good."""
        if self._tokens is not None:
            self._tokens.reload()

    def _load(self, engine: Engine) -> ServiceLoad:
        statistics = engine.statistics()
        return ServiceLoad(
            queued=self._admission.queued,
            active=self._admission.active,
            cache_bytes_reserved=statistics.cache_bytes_reserved,
            cache_bytes_limit=statistics.cache_bytes,
        )


def _allowed_address(option: str, text: str, options: ServiceOptions) -> Address:
    """Where to listen.

    Raises:
        ListenError: If it is no address, or one at which everybody could call.
    """
    address = parse_address(option, text)
    refuse_open(
        option, address, options.tls, options.token_file is not None, options.allow_insecure
    )
    return address


def _channel_options(
    options: ServiceOptions, engine_options: EngineOptions
) -> Sequence[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", options.max_message_bytes),
        # More than have places, for one client to be told that there are no more.
        (
            "grpc.max_concurrent_streams",
            options.max_queued + engine_options.max_active + _STREAMS_WITHOUT_PLACES,
        ),
        # Two servers on one port would answer in turns.
        ("grpc.so_reuseport", 0),
        # A client's machine that is gone is noticed, and its requests end, within a minute or two.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ]


async def _warm_up(engine: Engine) -> None:
    """Two tokens: kernels are compiled, weights are read, the cost of a token becomes known."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Event] = loop.create_future()

    def listen(event: Event) -> None:
        if isinstance(event, Finished | Failed):
            # Nobody waits any more if the server was stopped meanwhile.
            call_soon(loop, lambda: ended.done() or ended.set_result(event))

    stopping = Stopping(max_tokens=2, ignore_eos=True)
    engine.submit(GenerationRequest(TokenPrompt((0, 0)), stopping=stopping), listen)
    event = await ended
    if isinstance(event, Failed):
        raise event.error


async def start_server(
    engine: Engine,
    listen: str = "127.0.0.1:0",
    options: ServiceOptions | None = None,
) -> Server:
    """Serve an engine from the running event loop; call `stop` on what comes back.

    Args:
        engine: It stays the caller's.
        listen: "HOST:PORT"; port 0 takes a free one. Stands for the options' own.
        options: How to serve; the defaults if None.

    Raises:
        ListenError: If the address is not to be had, or would be open to everybody.
    """
    server = Server(replace(options or ServiceOptions(), listen=listen), engine.options)
    try:
        await server.listen()
        await server.serve(engine)
    except BaseException:
        await server.stop()
        raise
    return server
