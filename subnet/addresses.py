"""Addresses as operators write them, in the form that today's daemon understands."""

from mesh.p2p.quic import modernise

__all__ = ["modernise"]
