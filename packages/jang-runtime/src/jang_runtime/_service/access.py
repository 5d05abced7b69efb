"""Who may call: bearer tokens from a file."""

import hashlib
import hmac
import logging
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jang_runtime._errors import ListenError, UnauthenticatedError
from jang_runtime._service.logs import log_event

_log = logging.getLogger("jang_runtime")

_OPTION: Final = "--auth-tokens"
_SHORTEST_TOKEN: Final = 16
_SECONDS_BETWEEN_LOOKS: Final = 1.0
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
# What can stand in the metadata of a call.
_TOKEN: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class _Known:
    name: str
    # The token itself is not kept: it cannot get into a log or a core dump.
    digest: bytes


class TokenFile:
    """The tokens of a file: lines `NAME TOKEN`, and comments that begin with #.

    Args:
        path: The file. It is read again when it has changed.

    Raises:
        ListenError: If it cannot be read, or a line is not as it has to be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _state_of(path)
        self._known = _read(path)
        self._looked = time.monotonic()
        _warn_if_others_can_read(path)

    def reload(self) -> None:
        """Read the file now; if it is bad, say so in the log and keep the tokens there are."""
        self._looked = time.monotonic()
        # Before it is read: what is written in between is seen at the next look.
        self._state = _state_of(self._path)
        try:
            self._known = _read(self._path)
        except ListenError as error:
            log_event(_log, "tokens_kept", {"error": str(error)}, logging.ERROR)
            return
        _warn_if_others_can_read(self._path)
        log_event(_log, "tokens_loaded", {"file": self._path, "tokens": len(self._known)})

    def caller(self, authorization: Sequence[str]) -> str:
        """The name of the token in a call's metadata.

        Args:
            authorization: The values of its key `authorization`.

        Raises:
            UnauthenticatedError: If there is none, or one that the file does not have.
        """
        self._reload_if_changed()
        if not authorization:
            raise UnauthenticatedError(
                "authorization: found nothing, expected Bearer TOKEN", has_token=False
            )
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise UnauthenticatedError(
                "authorization: found something else, expected one Bearer TOKEN", has_token=False
            )
        return self._name_of(token.strip())

    def _name_of(self, token: str) -> str:
        digest = _digest(token)
        # All of them, and each in constant time: how long it takes tells nothing.
        names = [known.name for known in self._known if hmac.compare_digest(known.digest, digest)]
        if not names:
            raise UnauthenticatedError(
                "authorization: found a token that this server does not know", has_token=True
            )
        return names[0]

    def _reload_if_changed(self) -> None:
        if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        if _state_of(self._path) != self._state:
            self.reload()


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> tuple[_Known, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ListenError(f"{_OPTION}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ListenError(f"{_OPTION}: {path}: found bytes that are no UTF-8 text") from error
    known: list[_Known] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            known.append(_parse(line, f"{_OPTION}: {path}: line {number}", known))
    if not known:
        raise ListenError(f"{_OPTION}: {path}: found no token, expected lines NAME TOKEN")
    return tuple(known)


def _parse(line: str, where: str, before: Sequence[_Known]) -> _Known:
    """One line of the file; the messages never show a token."""
    words = line.split()
    if len(words) != 2:
        raise ListenError(f"{where}: found {len(words)} words, expected NAME TOKEN")
    name, token = words
    # A line with its words the wrong way round has a token here.
    if not _NAME.fullmatch(name):
        raise ListenError(f"{where}: expected a name of at most 64 letters, digits and _.@-")
    if any(known.name == name for known in before):
        raise ListenError(f"{where}: found a name that an earlier line has, expected another")
    if len(token) < _SHORTEST_TOKEN:
        raise ListenError(
            f"{where}: found a token of {len(token)} characters, "
            f"expected at least {_SHORTEST_TOKEN}"
        )
    if not _TOKEN.fullmatch(token):
        raise ListenError(f"{where}: expected a token of ASCII letters, digits and signs")
    digest = _digest(token)
    if any(hmac.compare_digest(known.digest, digest) for known in before):
        raise ListenError(f"{where}: found a token that an earlier line has, expected another")
    return _Known(name, digest)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _warn_if_others_can_read(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log_event(
            _log,
            "tokens_readable",
            {"file": path, "advice": f"others can read it; chmod 600 {path}"},
            logging.WARNING,
        )
