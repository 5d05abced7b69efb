"""Where a client's calls go and what goes with each of them: TLS, token, metadata, time."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, TypedDict

import grpc

from jang_runtime._errors import ClientOptionError, InvalidMetadataError
from jang_runtime._hosts import is_loopback
from jang_runtime._retries import RetryPolicy, Tries

Pem: TypeAlias = bytes | str | os.PathLike[str]

CHANNEL_OPTIONS: Final = (
    # A proxy in the environment is meant for the web, not for the machine in the next room.
    ("grpc.enable_http_proxy", 0),
    # The server bounds its answers; log-probabilities of a long text are many bytes.
    ("grpc.max_receive_message_length", -1),
    # Else a server that starts is not looked at again for longer than `RetryPolicy` waits.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class ClientOptions(TypedDict, total=False):
    """Options of a client; PEM data is given as bytes, or as the path of a file.

    Attributes:
        token: Sent with every call as `authorization: Bearer TOKEN`. Without TLS only to
            addresses of this machine.
        tls: Whether to encrypt; implied by what follows. Certificates of the server are checked.
        root_certificates: Who may sign the server's certificate; the system's if not given.
        certificate: The client's own, for servers that ask for one.
        private_key: Its key.
        retries: When to ask again.
        model: The name of the model that is meant, as `list_models` gives it; the one that the
            server holds if not given.
    """

    token: str
    tls: bool
    root_certificates: Pem
    certificate: Pem
    private_key: Pem
    retries: RetryPolicy
    model: str


class CallOptions(TypedDict, total=False):
    """Options of one call.

    Attributes:
        timeout: Seconds for the call, all tries together, to the end of a stream; None for no
            limit. The client's if not given.
        request_id: Name of the request, for `abort` and the server's log; 1 to 128 letters,
            digits and -_.:
        traceparent: W3C trace context, for the server's log.
    """

    timeout: float | None
    request_id: str
    traceparent: str


@dataclass(frozen=True)
class Connection:
    """What a client knows of its server and its calls.

    Attributes:
        target: "HOST:PORT".
        timeout: Seconds for a call; None for no limit.
        retries: When to ask again.
        credentials: Of TLS; None for plaintext.
        metadata: What goes with every call.
        model: What goes with every call that needs a model; None for none.
    """

    target: str
    timeout: float | None
    retries: RetryPolicy
    credentials: grpc.ChannelCredentials | None
    # The token is in it.
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    model: str | None

    def tries(self, options: CallOptions) -> Tries:
        """The tries of a call that begins now."""
        return Tries(self.retries, options.get("timeout", self.timeout))

    def metadata_of(self, options: CallOptions) -> tuple[tuple[str, str], ...]:
        """The metadata of a call.

        Raises:
            InvalidMetadataError: If a value cannot be sent.
        """
        named = (
            ("x-request-id", options.get("request_id", "")),
            ("traceparent", options.get("traceparent", "")),
        )
        for key, value in named:
            if not _is_sendable(value):
                raise InvalidMetadataError(key, repr(value), "printable ASCII")
        return (*self.metadata, *((key, value) for key, value in named if value))


def connection(target: str, timeout: float | None, options: ClientOptions) -> Connection:
    """Check a client's options.

    Raises:
        ClientOptionError: If they do not go together, or a file cannot be read.
    """
    credentials = _credentials(options)
    token = options.get("token")
    metadata: tuple[tuple[str, str], ...] = ()
    if token is not None:
        if not token or not _is_sendable(token):
            # Never the token itself: errors end up in logs.
            raise ClientOptionError("token: found one that cannot be sent, expected ASCII")
        if credentials is None and not is_local(target):
            raise ClientOptionError(
                f"token: found a plaintext connection to {target}, expected tls=True, "
                "or an address of this machine"
            )
        metadata = (("authorization", f"Bearer {token}"),)
    return Connection(
        target=target,
        timeout=timeout,
        retries=options.get("retries", RetryPolicy()),
        credentials=credentials,
        metadata=metadata,
        model=options.get("model"),
    )


def is_local(target: str) -> bool:
    """Whether what is sent to a target of gRPC's stays on this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    # "ipv4:127.0.0.1:50051,10.0.0.1:50051" and "dns:///localhost:50051" have a scheme.
    addresses = rest.split(",") if scheme in ("ipv4", "ipv6") else [target]
    hosts = (address.removeprefix("dns:///").rpartition(":")[0] for address in addresses)
    return all(is_loopback(host.strip("[]")) for host in hosts)


def _is_sendable(value: str) -> bool:
    return value.isascii() and (not value or value.isprintable())


def _credentials(options: ClientOptions) -> grpc.ChannelCredentials | None:
    given = [
        name for name in ("root_certificates", "certificate", "private_key") if name in options
    ]
    if not options.get("tls", bool(given)):
        if given:
            raise ClientOptionError(f"tls: found False beside {given[0]}, expected True")
        return None
    if ("certificate" in options) != ("private_key" in options):
        raise ClientOptionError("certificate, private_key: found one of them, expected both")
    return grpc.ssl_channel_credentials(
        root_certificates=_pem("root_certificates", options.get("root_certificates")),
        private_key=_pem("private_key", options.get("private_key")),
        certificate_chain=_pem("certificate", options.get("certificate")),
    )


def _pem(name: str, value: Pem | None) -> bytes | None:
    if value is None:
        return None
    # gRPC ends the process over some data that are no PEM.
    if isinstance(value, bytes):
        return _checked(name, value)
    try:
        return _checked(f"{name}: {value}", Path(value).read_bytes())
    except OSError as error:
        raise ClientOptionError(f"{name}: {value}: {error.strerror}, expected a file") from error


def _checked(where: str, data: bytes) -> bytes:
    if b"-----BEGIN " not in data:
        raise ClientOptionError(f"{where}: found no PEM data, expected some")
    return data
