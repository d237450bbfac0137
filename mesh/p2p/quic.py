"""Addresses as operators write them, in the form that today's daemon understands."""

from __future__ import annotations

from collections.abc import Iterable


def modernise(addresses: Iterable[str]) -> tuple[str, ...]:
    """Read ``/quic`` as ``/quic-v1``.

    The older name stood for a draft that p2pd no longer speaks: it accepts the address
    and then silently does not listen.
    """
    return tuple(
        "/".join("quic-v1" if part == "quic" else part for part in address.split("/"))
        for address in addresses
    )
