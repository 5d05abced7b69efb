"""Services that every gRPC server is expected to have: health and reflection."""

import asyncio
from typing import Any, Final, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from jang_runtime._service.handlers import Context

# A watcher needs no token and stays for as long as it likes.
_MOST_WATCHERS: Final = 1024
RUNTIME_SERVICE: Final = "jang.runtime.v1.RuntimeService"

_Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1: whether the server serves; not before `set(True)`.

    The servicer that comes with grpcio-health-checking forgets its other watchers when one goes,
    and holds a lock while it writes to one: a client that does not read would stop the server.
    See https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
    """

    def __init__(self) -> None:
        self._is_serving = False
        self._has_ended = False
        self._watchers = 0
        # Set at a change, and then replaced by the one for the next.
        self._changed = asyncio.Event()

    def set(self, serving: bool) -> None:
        """Say whether the server serves, to those who ask and those who watch."""
        self._is_serving = serving
        self._tell()

    def end(self) -> None:
        """Say for the last time that it does not, and let the watchers' calls end."""
        self._has_ended = True
        self.set(False)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Answer for one service; "" stands for all of them."""
        status = self._status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "service: found no service of that name")
        return _Response(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Answer now and at every change.

        Responses are written, not yielded: a generator would learn only from the garbage collector
        that its watcher has gone.
        """
        if self._watchers >= _MOST_WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"watchers: found {self._watchers}, expected fewer than {_MOST_WATCHERS}",
            )
        self._watchers += 1
        try:
            await self._tell_watcher(request, context)
        finally:
            self._watchers -= 1

    async def _tell_watcher(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        told = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                await context.write(_Response(status=status))
                told = status
            if self._has_ended and status == self._status(request.service):
                return
            await changed.wait()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service not in ("", RUNTIME_SERVICE):
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._is_serving else _Response.NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def add_health(server: grpc.aio.Server) -> Health:
    """Add grpc.health.v1 to a server; it says NOT_SERVING until told otherwise."""
    health = Health()
    # Without types in grpcio-health-checking.
    cast(Any, health_pb2_grpc).add_HealthServicer_to_server(health, server)
    return health


def add_reflection(server: grpc.aio.Server) -> None:
    """Add grpc.reflection.v1alpha to a server; it describes RuntimeService, health and itself."""
    names = (
        RUNTIME_SERVICE,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(names, server)
