"""How servers are spoken to, and as whom: certificates and tokens, out of files."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc

from jang_eval._address import is_local
from jang_eval._errors import OptionError, TargetError

_PEM_MARK = b"-----BEGIN "


@dataclass(frozen=True)
class Access:
    """How a server is spoken to, and as whom; by default without encryption, and as nobody.

    Attributes:
        is_encrypted: Whether by TLS; the server's certificate is checked.
        authorities: Who may sign the server's certificate, as PEM; the system's if None.
        certificate: The client's own, as PEM, for servers that ask for one.
        key: Its private key, as PEM.
        token: Goes with every call.
    """

    is_encrypted: bool = False
    authorities: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """For gRPC; None without encryption."""
        if not self.is_encrypted:
            return None
        return grpc.ssl_channel_credentials(self.authorities, self.key, self.certificate)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def check(self, address: str) -> None:
        """Raise TargetError if a token would go to another machine without encryption."""
        if self.token is not None and not self.is_encrypted and not is_local(address):
            raise TargetError(
                f"server {address}: found a token without TLS, "
                "expected TLS or an address of this machine"
            )


def read_access(
    tls: bool,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    *,
    prefix: str = "",
) -> Access:
    """Read the files that options name.

    Args:
        tls: Whether to encrypt; implied by what follows.
        tls_ca: Who may sign the server's certificate.
        tls_cert: The client's own certificate.
        tls_key: Its private key.
        token_file: Holds a token, and nothing else.
        prefix: Of the options' names in errors.

    Raises:
        OptionError: A file cannot be read or holds something else, or one of two is missing.
    """
    if (tls_cert is None) != (tls_key is None):
        raise OptionError(
            f"{prefix}tls_cert, {prefix}tls_key: found one of them, expected both or none"
        )
    return Access(
        is_encrypted=tls or tls_ca is not None or tls_cert is not None,
        authorities=_pem(f"{prefix}tls_ca", tls_ca),
        certificate=_pem(f"{prefix}tls_cert", tls_cert),
        key=_pem(f"{prefix}tls_key", tls_key),
        token=_token(f"{prefix}token_file", token_file),
    )


def _pem(option: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    data = _content(option, path)
    # gRPC ends the process over some data that are no PEM.
    if _PEM_MARK not in data:
        raise OptionError(f"{option}: {path}: found no PEM data, expected some")
    return data


def _token(option: str, path: Path | None) -> str | None:
    """The token in a file; errors never have it in them, for they end up in logs."""
    if path is None:
        return None
    words = _content(option, path).split()
    if len(words) != 1:
        raise OptionError(f"{option}: {path}: found {len(words)} words, expected a token alone")
    try:
        token = words[0].decode("ascii")
    except UnicodeDecodeError:
        token = ""
    if not token.isprintable() or not token:
        raise OptionError(f"{option}: {path}: found other characters in it, expected ASCII")
    return token


def _content(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"{option}: {path}: {error.strerror}, expected a file") from error
