"""Makes sure that no other process runs as a node before it signs anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import structlog

from consensus.phases import phase_at
from consensus.types import BlockNumber, Epoch, EpochPosition
from keys.backup import read_restored_stamp
from keys.peer import PeerKey
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import RecordStore
from mesh.p2p.quic import modernise
from subnet.account.eligibility import Eligibility, Obstacle
from subnet.epoch.interfaces import ChainReader
from subnet.journal.journal import JOURNAL_FILE
from subnet.network import SubnetMembership
from subnet.operator.folder_mark import find_reason_to_listen, mark_folder
from subnet.operator.identity_watch import check_runs_nowhere_else, was_run_here_lately
from subnet.operator.preflight import PreparedNode
from subnet.operator.silence import Ear, find_trace, listen_an_epoch
from subnet.operator.status import StatusFile

LISTENING = "listening for its own identity"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FolderBefore:
    """What was there before this process opened the journal."""

    restored: str | None
    had_journal: bool

    @classmethod
    def look(cls, prepared: PreparedNode) -> Self:
        """Look at the data folder and beside the identity file. Raises KeysError."""
        return cls(
            read_restored_stamp(prepared.config.identity_path),
            (prepared.data_dir / JOURNAL_FILE).exists(),
        )


async def claim_identity(
    prepared: PreparedNode,
    reader: ChainReader,
    state: SubnetMembership,
    initial_peers: tuple[str, ...],
    before: FolderBefore,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Return once no other process runs as this node; at once where it ran a moment ago.

    ``say`` hears in a line what it waits for. Raises ConfigError if one runs, ChainUnavailable or
    TransportError.
    """
    data_dir = prepared.data_dir
    why = None
    if not prepared.config.unpaid:
        why = find_reason_to_listen(
            data_dir,
            restored=before.restored,
            had_journal=before.had_journal,
            journal=state.journal,
        )
    if why is None and was_run_here_lately(data_dir, now_s=time.time()):
        return
    async with _open_records(state, initial_peers) as records:
        ear = Ear(
            own=prepared.key.peer_id,
            node_id=prepared.node_id,
            terms=state.terms,
            reader=reader,
            rosters=state.rosters,
            records=records,
        )
        if why is None and not before.had_journal and not prepared.config.unpaid:
            trace = await find_trace(ear)
            why = None if trace is None else f"its data folder is new, and {trace}"
        if why is not None:
            await _listen(prepared, ear, why, say)
        elif records is not None:
            await check_runs_nowhere_else(records, ear.own, state.terms.network_id)
    mark_folder(data_dir, restored=before.restored)


@asynccontextmanager
async def _open_records(
    state: SubnetMembership, initial_peers: tuple[str, ...]
) -> AsyncIterator[RecordStore | None]:
    """Open the record store as a client under a new key; None without a peer to ask."""
    if not initial_peers:
        yield None
        return
    reader = HostConfig(
        key=PeerKey.generate(),
        host_maddrs=(),
        client_mode=True,
        initial_peers=modernise(initial_peers),
    )
    async with HivemindHost.open(state.configure_host(reader)) as host:
        yield host.records


async def _listen(prepared: PreparedNode, ear: Ear, why: str, say: Callable[[str], None]) -> None:
    """Listen a whole epoch, and say so in log and status file."""
    logger.warning("listening for a whole epoch before anything is signed", reason=why)
    until: BlockNumber | None = None
    epoch = Epoch(0)

    def describe() -> str:
        end = "" if until is None else f" until block {until}"
        return f"{LISTENING}{end}: {why}"

    def get_facts() -> dict[str, Any]:
        text = describe()
        return {
            "peer_id": str(ear.own),
            "subnet_id": prepared.subnet_id,
            "subnet_node_id": prepared.node_id,
            "role": prepared.config.role.value,
            "blocks": None,
            "block_time_s": ear.terms.block_time_s,
            "taking_part": text,
            "eligibility": str(Eligibility(Epoch(epoch + 1), Obstacle.PROCESS, text)),
            "addresses": (),
        }

    status = StatusFile(prepared.data_dir, get_facts)

    def tell(position: EpochPosition, ends_at: BlockNumber) -> None:
        nonlocal until, epoch
        until, epoch = ends_at, position.epoch
        say(describe())
        status.note_head(position, phase_at(position, ear.terms.schedule))

    try:
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(status.keep_fresh())
            await listen_an_epoch(ear, tell=tell)
            writing.cancel()
    except BaseException:
        status.write(is_stopped=True)
        raise
    logger.info("nothing was heard of the own identity elsewhere", peer_id=str(ear.own))
