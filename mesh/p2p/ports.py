"""Whether the ports that a node wants are free. Light: no transport library is imported."""

from __future__ import annotations

import errno
import socket

from mesh.errors import InvalidRequest

_STREAM = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class PortInUse(InvalidRequest):
    """Another process listens on the port, or the address is not this machine's."""

    def __init__(self, address: str, message: str) -> None:
        super().__init__(address, message)
        self.address = address


def check_ports_free(addresses: tuple[str, ...]) -> None:
    """Raise PortInUse for the first ``/ip4|ip6/HOST/tcp|udp/PORT...`` that cannot be bound.

    Addresses of another shape are left to the transport, and port 0 is always free.
    """
    for address in addresses:
        parts = address.split("/")
        if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] not in _STREAM:
            continue
        if not parts[4].isdecimal() or not 0 < int(parts[4]) <= 65_535:
            continue
        _check_free(address, parts[1], parts[2], _STREAM[parts[3]], int(parts[4]))


def _check_free(address: str, family: str, host: str, kind: int, port: int) -> None:
    with socket.socket(socket.AF_INET6 if family == "ip6" else socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(address, f"port {port} is in use") from error
            raise PortInUse(address, f"cannot listen there: {error.strerror}") from error
