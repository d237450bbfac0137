"""Stops a node whose identity runs elsewhere, on another machine or in another network namespace.

Theory of operation
-------------------

What it is for. Two nodes with one key sign two records for one slot, and neither counts. The lock
of ``identity_lock`` covers one network namespace; beyond it only the network can tell. So a node
reads its own heartbeat from the record store before it signs anything.

What a heartbeat says. It outlives its author by up to two minutes, so finding one proves nothing.
A *renewed* one does: a live node replaces its heartbeat half a minute before it expires. So the
check waits until the newest heartbeat has expired, and stops the node as soon as it finds one that
expires later.

Who waits. A node that is soon started again in its own data folder does not: the locks of the
folder and of the identity say that its predecessor is dead, and a restart has no minute to lose.
The folder is its own if it holds its own mark (folder_mark.py). Soon means that a node wrote its
status there within a heartbeat's life. After a longer rest in its own folder a node asks once, and
waits only for a heartbeat that it finds. A node in another folder, or with a restored identity,
listens a whole epoch instead (silence.py).

How it reads. As a client under a key made for the occasion: under its own key it would take over
the running node's place in the peers' tables while it looks.

What strangers can do. A heartbeat counts only with the node's own signature. Replicas that kept one
back from a process that has died can show it late, and so delay a node in a new folder until that
heartbeat expires, two minutes after the death at most. If all replicas hide the heartbeats, or the
other process is cut off from the network, the check finds nothing and the node starts.

What it does not see. A node that comes back to its own folder within two minutes does not look
whether a copy has taken over in the meantime.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from keys.peer import PeerId
from mesh.p2p.interface import RecordStore
from mesh.routing.heartbeat import MAX_AHEAD_S, make_heartbeat_key, open_heartbeat
from subnet.errors import ConfigError
from subnet.operator.folder_mark import MARK_FILE, make_mark, read_mark
from subnet.operator.status import STATUS_FILE

POLL_S = 2.0
FETCH_TIMEOUT_S = 5.0
ALL_REPLICAS = 8

logger = structlog.get_logger(__name__)


def was_run_here_lately(data_dir: Path, *, now_s: float) -> bool:
    """Return whether a node ran in ``data_dir``, and in no copy, within a heartbeat's life."""
    mark = read_mark(data_dir)
    try:
        own = make_mark(data_dir / MARK_FILE, restored=None if mark is None else mark.restored)
        return mark == own and now_s - (data_dir / STATUS_FILE).stat().st_mtime < MAX_AHEAD_S
    except OSError:
        return False


async def check_runs_nowhere_else(
    records: RecordStore,
    own: PeerId,
    network_id: bytes,
    *,
    clock: Callable[[], float] = time.time,
    poll_s: float = POLL_S,
) -> None:
    """Return once no heartbeat of ``own`` is alive, after two minutes at most.

    Raises ConfigError if a live node renews it, and TransportError.
    """
    newest = None
    # Replicas may hold an older one than others do, and that is no sign of life.
    while later := await find_expiry(records, own, network_id, after=newest, clock=clock):
        newest = later
    if newest is None:
        return
    logger.warning(
        "this identity has a heartbeat that this data folder does not explain: "
        "waiting whether it is renewed",
        peer_id=str(own),
        seconds=round(newest - clock()),
    )
    while clock() < newest:
        await asyncio.sleep(poll_s)
        if await find_expiry(records, own, network_id, after=newest, clock=clock) is not None:
            raise ConfigError(
                f"another process runs as {own}: its heartbeat was renewed just now",
                "stop it, or make an identity of its own for this node with `mesh keygen`",
            )


async def find_expiry(
    records: RecordStore,
    own: PeerId,
    network_id: bytes,
    *,
    after: int | None,
    clock: Callable[[], float],
) -> int | None:
    """Return when a live heartbeat expires that expires after ``after``; None without one.

    Raises TransportError.
    """
    key = make_heartbeat_key(network_id, own)
    earliest = max(int(clock()), after or 0) + 1
    found = await records.fetch({key: earliest}, timeout_s=FETCH_TIMEOUT_S, max_misses=ALL_REPLICAS)
    if key not in found:
        return None
    # The record store admits valid heartbeats only.
    envelope, _ = open_heartbeat(found[key], network_id=network_id, now_s=clock())
    return envelope.expires_at
