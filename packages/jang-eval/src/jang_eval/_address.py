"""Addresses of servers."""

import ipaddress
import re

from jang_eval._errors import TargetError

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_PORT_MAX = 65535
_UNIX = "unix:"


def check_address(address: str) -> None:
    """Raise TargetError if this is no `HOST:PORT` (an IPv6 host in brackets) or `unix:PATH`."""
    if _is_socket(address):
        return
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match.group(1)) <= _PORT_MAX:
        raise TargetError(
            f"bad address: found {address!r}, "
            "expected HOST:PORT such as localhost:50051, or unix:PATH"
        )


def is_local(address: str) -> bool:
    """Whether what is sent to a checked address stays on this machine."""
    if _is_socket(address):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_socket(address: str) -> bool:
    return address.startswith(_UNIX) and len(address) > len(_UNIX)
