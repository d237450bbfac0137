"""Under which names a server answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Set
from urllib.parse import urlsplit

ALWAYS_ALLOWED_HOSTS = frozenset({"localhost"})


def is_trusted_host(header: bytes, allowed: Set[str]) -> bool:
    """Whether a ``Host`` header names one of the ``allowed`` names, or an address.

    A page of another site reaches a loopback server under its own name after it has rebound that
    name's address. An address literal cannot be rebound, so literals pass.
    """
    name = _get_host_name(header.decode("latin-1").lower())
    return name in allowed or _is_address(name)


def _get_host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
