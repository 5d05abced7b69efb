"""Where a server listens, with which certificates, and where it refuses to."""

import logging
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import grpc

from jang_runtime._errors import ListenError
from jang_runtime._hosts import is_loopback
from jang_runtime._service.logs import log_event

_log = logging.getLogger("jang_runtime")

_Made = TypeVar("_Made")

_CERTIFICATE: Final = "--tls-cert"
_KEY: Final = "--tls-key"
_CLIENT_CA: Final = "--tls-client-ca"
_HOST_PORT: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>\d+)"
)
_UNIX: Final = "unix:"


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: Name or number; of a socket in the file system "unix:" and its path.
        port: 0 takes a free one; 0 for a socket in the file system.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is reachable from this machine only."""
        return self.host.startswith(_UNIX) or is_loopback(self.host)

    def __str__(self) -> str:
        if self.host.startswith(_UNIX):
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(option: str, text: str) -> Address:
    """The address in an option: "HOST:PORT", "[::1]:PORT" or "unix:PATH".

    Raises:
        ListenError: If it is none of these.
    """
    if text.startswith(_UNIX) and len(text) > len(_UNIX):
        return Address(text, 0)
    found = _HOST_PORT.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise ListenError(f"{option}: found {text!r}, expected HOST:PORT, such as 127.0.0.1:50051")
    return Address(found["six"] or found["host"], int(found["port"]))


@dataclass(frozen=True)
class TlsFiles:
    """Files with certificates in PEM form.

    Attributes:
        certificate: The server's, and those between it and the authority.
        key: Its private key, without a password.
        client_ca: The authorities of clients; with it, only clients with a certificate get in.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def tls_files(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> TlsFiles | None:
    """The files of the three options, read and checked; None without any.

    Raises:
        ListenError: Naming the option that is missing, or option and file.
    """
    if certificate is None or key is None:
        given = [
            name
            for name, path in ((_CERTIFICATE, certificate), (_KEY, key), (_CLIENT_CA, client_ca))
            if path is not None
        ]
        if not given:
            return None
        missing = _KEY if certificate is not None else _CERTIFICATE
        raise ListenError(f"{missing}: found nothing, expected a file beside {given[0]}")
    files = TlsFiles(certificate, key, client_ca)
    ssl_context(files)
    return files


def ssl_context(files: TlsFiles) -> ssl.SSLContext:
    """What Python's own servers need of the files.

    Raises:
        ListenError: If one of them is not what it has to be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _read(_KEY, files.key)
    # Asked of a context of its own: the next step would not say which of the files is bad.
    _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), _CERTIFICATE, files.certificate)
    try:
        # Without an answer to its question for a password OpenSSL would ask the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ListenError(
                f"{_KEY}: {files.key}: found a key that does not belong to "
                f"{_CERTIFICATE} {files.certificate}"
            ) from error
        raise ListenError(
            f"{_KEY}: {files.key}: expected a private key in PEM form, without a password"
        ) from error
    if files.client_ca is not None:
        _load_certificates(context, _CLIENT_CA, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_certificates(context: ssl.SSLContext, option: str, path: Path) -> None:
    text = _read(option, path)
    try:
        # Around the certificates there may be text in any language.
        context.load_verify_locations(cadata=text.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ListenError(f"{option}: {path}: expected certificates in PEM form") from error


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ListenError(f"{option}: {path}: {error.strerror}") from error


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """What a gRPC server needs of the files; changed files hold for the connections that follow."""
    watched = WatchedFiles(files, _configuration)
    return grpc.dynamic_ssl_server_credentials(
        watched.current(), watched.current, files.client_ca is not None
    )


class WatchedFiles(Generic[_Made]):
    """What a server has made of its files; ask at every new connection, from any thread.

    Args:
        files: The files.
        make: Makes it of them.

    Raises:
        ListenError: If one of the files is not what it has to be.
    """

    def __init__(self, files: TlsFiles, make: Callable[[TlsFiles], _Made]) -> None:
        self._files = files
        self._make = make
        self._changed = _changed(files)
        self._made = make(files)

    def current(self) -> _Made:
        """What is made of the files as they are; the last good one if they are bad."""
        try:
            changed = _changed(self._files)
            if changed != self._changed:
                self._changed = changed
                # Together they may not fit while one is new and one is old.
                ssl_context(self._files)
                self._made = self._make(self._files)
                log_event(_log, "certificates_loaded", {"file": self._files.certificate})
        except (ListenError, OSError) as error:
            log_event(_log, "certificates_kept", {"error": str(error)}, logging.ERROR)
        return self._made


def _changed(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    paths = (files.certificate, files.key, files.client_ca)
    states = (path.stat() for path in paths if path is not None)
    return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    roots = None if files.client_ca is None else files.client_ca.read_bytes()
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def refuse_open(
    option: str, address: Address, tls: TlsFiles | None, has_tokens: bool, insecure: bool
) -> None:
    """Refuse to answer others without TLS and without knowing who they are.

    Args:
        option: Where the address comes from, such as "--listen".
        address: Where to listen.
        tls: Its certificates.
        has_tokens: Whether callers need tokens.
        insecure: Whether it was asked for all the same.

    Raises:
        ListenError: If so.
    """
    if address.is_loopback or insecure:
        return
    if tls is None:
        lacks = f"TLS ({_CERTIFICATE} and {_KEY})"
    elif not has_tokens and tls.client_ca is None:
        lacks = f"authentication (--auth-tokens or {_CLIENT_CA})"
    else:
        return
    raise ListenError(
        f"{option}: found {str(address)!r}, which others can reach, without {lacks}; expected a "
        "loopback address such as 127.0.0.1:50051, or that; --insecure does without"
    )


def bind(server: grpc.aio.Server, address: Address, tls: TlsFiles | None) -> Address:
    """Bind a server that has not been started; returns the address with its real port.

    Raises:
        ListenError: If the address is not to be had.
    """
    try:
        if tls is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), server_credentials(tls))
    except RuntimeError as error:
        raise ListenError(
            f"--listen: {address} is not to be had; another program may use it"
        ) from error
    return address if address.host.startswith(_UNIX) else Address(address.host, port)
