"""Addresses of servers."""

import re

from jang_eval._errors import TargetError

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_PORT_MAX = 65535


def check_address(address: str) -> None:
    """Raise TargetError if this is no `HOST:PORT`; an IPv6 host stands in brackets."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match.group(1)) <= _PORT_MAX:
        raise TargetError(
            f"bad address: found {address!r}, expected HOST:PORT such as localhost:50051"
        )
