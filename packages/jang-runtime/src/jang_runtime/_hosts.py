"""Which hosts are this machine, for whoever connects and for whoever listens."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host, given by name or number, stays on this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
