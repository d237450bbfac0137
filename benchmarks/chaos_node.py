"""The program of one node under test: that of ``mesh localnet``, placed as a fault wants it."""

from __future__ import annotations

import ctypes
import os

from hivemind.dht.routing import DHTID

from mesh.p2p.dht_reader import RecordReader
from mesh.p2p.read_wire import decode_read, encode_read_answer
from subnet.localnet.child_programs import run_node_child
from subnet.localnet.processes import Message, Send

_CLONE_NEWNET = 0x40000000


def run_chaos_node(config: Message, send: Send) -> None:
    """Run one node as ``run_node_child`` does.

    With ``namespace``, a file of /proc, it first enters that network namespace. With
    ``hides_records`` its replica tells readers of every other key that it holds nothing there.
    """
    if config["namespace"] is not None:
        enter_network_namespace(config["namespace"])
    if config["hides_records"]:
        hide_records()
    run_node_child(config, send)


def enter_network_namespace(path: str) -> None:
    """Move this thread, and what it starts from now on, into a network namespace.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns({path}) failed")
    finally:
        os.close(descriptor)


def hide_records() -> None:
    """Make this process's replica selective."""

    async def answer(self: RecordReader, request: bytes) -> bytes:
        return encode_read_answer(
            None if key[-1] % 2 else self._get_held(DHTID.from_bytes(key), earliest)
            for key, earliest in decode_read(request)
        )

    RecordReader._answer = answer  # type: ignore[method-assign]
