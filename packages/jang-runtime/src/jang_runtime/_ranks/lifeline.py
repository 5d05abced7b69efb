"""Notices that a rank is gone, beside MLX's collectives, of which some then wait for ever.

MLX's ring may miss the end of a peer while data is under way (ml-explore/mlx pull request 4060
mends most of it), and jaccl always does (issue 3910). So each rank holds a connection of its own to
rank 0, over which nothing goes; its end is the end of the rank, or of its machine.
"""

import contextlib
import json
import logging
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

_log = logging.getLogger("jang_runtime")

# Whoever connects has to know it; it came through the group.
_TOKEN_BYTES: Final = 16
_PLACE: Final = struct.Struct(f"<{_TOKEN_BYTES}sH")
_CONNECT_SECONDS: Final = 10.0
# A machine that stops without a word is noticed after about 10 + 3 * 5 seconds.
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 10,
    # What macOS calls the same.
    "TCP_KEEPALIVE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
}
# For the engine to say by itself what happened, or to end as it was about to.
_GRACE_SECONDS: Final = 3.0


class Gathering(Protocol):
    """Ranks that can exchange bytes."""

    @property
    def rank(self) -> int:
        """The number of this process."""
        ...

    def gather(self, content: bytes) -> list[bytes]:
        """What each rank gives, all of one length, by rank."""
        ...


def hold(ranks: Gathering, lost: Callable[[], None]) -> None:
    """Connect every rank to rank 0 and watch, in a daemon thread, for one that is gone.

    All ranks have to call it together. Where rank 0's address is not known or cannot be reached,
    MLX's collectives alone tell.

    Args:
        ranks: The group.
        lost: Called some seconds after a connection has ended; on rank 0, which has one of each
            other rank, perhaps several times, and at once.
    """
    host = _first_host()
    listener = _listener(host) if ranks.rank == 0 else None
    with listener or contextlib.nullcontext():
        port = listener.getsockname()[1] if listener is not None else 0
        token, port = _PLACE.unpack(
            ranks.gather(_PLACE.pack(secrets.token_bytes(_TOKEN_BYTES), port))[0]
        )
        own = _connect(host, port, token) if ranks.rank else None
        connected = sum(flag[0] for flag in ranks.gather(bytes([own is not None])))
        if listener is not None:
            connections = _accept(listener, token, connected)
        else:
            connections = [] if own is None else [own]
    for connection in connections:
        threading.Thread(
            target=_watch, args=(connection, lost), name="jang-lifeline", daemon=True
        ).start()
    if not connections:
        _log.warning("the end of another rank may go unnoticed: no connection to rank 0")


def _first_host() -> str | None:
    """Rank 0's address, from what launchers set."""
    coordinator = os.environ.get("MLX_JACCL_COORDINATOR")
    hosts = os.environ.get("MLX_HOSTFILE")
    if coordinator is None and hosts is not None:
        coordinator = json.loads(Path(hosts).read_text())[0][0]
    return None if coordinator is None else coordinator.rpartition(":")[0]


def _listener(host: str | None) -> socket.socket | None:
    try:
        return None if host is None else socket.create_server((host, 0))
    except OSError:
        return None


def _connect(host: str | None, port: int, token: bytes) -> socket.socket | None:
    if host is None or port == 0:
        return None
    try:
        connection = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
        connection.sendall(token)
    except OSError:
        return None
    return connection


def _accept(listener: socket.socket, token: bytes, count: int) -> list[socket.socket]:
    """The connections of those that know the token, from whom it is on its way; others are closed.

    All are listened to together, and for a time that they share: nobody is held up by a stranger
    who says nothing.
    """
    deadline = time.monotonic() + _CONNECT_SECONDS
    connections: list[socket.socket] = []
    silent: set[socket.socket] = set()
    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while len(connections) < count and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.fileobj is listener:
                    # One that has gone by now is none.
                    with contextlib.suppress(OSError):
                        connection, _ = listener.accept()
                        connection.setblocking(False)
                        selector.register(connection, selectors.EVENT_READ)
                        silent.add(connection)
                    continue
                connection = cast(socket.socket, key.fileobj)
                selector.unregister(connection)
                if _says(connection, token):
                    silent.remove(connection)
                    connections.append(connection)
    for connection in silent:
        connection.close()
    return connections


def _says(connection: socket.socket, token: bytes) -> bool:
    try:
        said = connection.recv(_TOKEN_BYTES)
    except OSError:
        return False
    return secrets.compare_digest(said, token)


def _watch(connection: socket.socket, lost: Callable[[], None]) -> None:
    with contextlib.suppress(OSError), connection:
        connection.settimeout(None)
        # macOS refuses options of a connection that the other side has closed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        # Nobody writes: it ends when the other does.
        while connection.recv(1):
            pass
    time.sleep(_GRACE_SECONDS)
    lost()
