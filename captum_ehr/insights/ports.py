"""Addresses and ports to listen on."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any


class PortInUseError(OSError):
    """The port that was asked for is taken."""


def probe(address: str, port: int) -> None:
    """Find out whether an address and port can be had.

    Raises:
        PortInUseError: If the port is taken.
        ValueError: If there is no such port.
    """
    for one in bound(address, port)[0]:
        one.close()


def bound(address: str, port: int) -> tuple[list[Any], int]:
    """Sockets that listen, and on which port."""
    if not 0 <= port <= 65535:
        raise ValueError(f"There is no port {port}; expected 0 (any free) to 65535.")
    from bokeh.server.util import bind_sockets

    try:
        sockets, found = bind_sockets(address, port)
    except OSError as error:
        if port:
            raise PortInUseError(
                error.errno,
                f"Port {port} of {address} cannot be had ({error.strerror}). Stop what "
                "uses it, give another port, or port 0 for a free one",
            ) from None
        raise
    return sockets, found


def has_port(host: str) -> bool:
    """Whether a host header says a port.

    Example:
        >>> has_port("localhost:8000"), has_port("localhost"), has_port("[::1]")
        (True, False, False)
    """
    return host.rpartition(":")[2].isdigit() and not host.endswith("]")


def is_loopback(address: str) -> bool:
    """Whether an address is reached from this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if address == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
