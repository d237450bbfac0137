"""One subnet at one block: what ``mesh chain show`` prints. All reads are of the same block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.phases import Phase, compute_schedule, phase_at
from consensus.protocol_params import MAINNET
from consensus.submission import Submission
from consensus.types import (
    BlockNumber,
    EpochPosition,
    NodeClass,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from subnet.account.registration import RegisteredNode, parse_registered_node
from subnet.chain import parsing
from subnet.chain.substrate import SubstrateChain, read_block
from subnet.epoch.interfaces import BlockInfo, SubnetInfo

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

PACE_BLOCKS = 10
"""Blocks over which the time between blocks is measured."""


@dataclass(frozen=True, slots=True)
class NodeOverview:
    """One node with its owner, stake (units of 10^-18 TENSOR) and reputation (10^18 is one)."""

    node: RegisteredNode
    coldkey: bytes
    stake: int
    reputation: int


@dataclass(frozen=True, slots=True)
class SubnetOverview:
    """A subnet at ``head``.

    ``state`` is Registered, Active or Paused. ``position``, ``phase`` and ``seconds_left`` are
    None while the subnet has no slot. ``elected`` and ``submission`` are those of the present
    epoch.
    """

    head: BlockInfo
    subnet: SubnetInfo
    state: str
    friendly_id: int | None
    owner: bytes | None
    nodes: tuple[NodeOverview, ...]
    position: EpochPosition | None
    phase: Phase | None
    seconds_left: float | None
    elected: SubnetNodeId | None
    submission: Submission | None

    @property
    def attestation_ratio(self) -> float | None:
        """Attestations over Validator-class nodes of this epoch; None without a proposal."""
        if self.submission is None or self.position is None:
            return None
        epoch = self.position.epoch
        electors = sum(
            1
            for row in self.nodes
            if row.node.node_class is NodeClass.VALIDATOR and row.node.start_epoch <= epoch
        )
        return min(1.0, len(self.submission.attested) / electors) if electors else None


@dataclass(frozen=True, slots=True)
class SubnetSummary:
    """One row of the list of subnets."""

    subnet_id: SubnetId
    friendly_id: int | None
    name: str
    state: str


async def fetch_subnets(
    chain: SubstrateChain, *, at_block: BlockNumber | None = None
) -> tuple[SubnetSummary, ...]:
    """Return every subnet at ``at_block`` or at the head, sorted by id."""

    def work(session: ChainSession) -> tuple[SubnetSummary, ...]:
        at = session.read_head_hash() if at_block is None else session.read_block_hash(at_block)
        rows = [record for _, record in session.read_map("Network.SubnetsData", at=at)]
        return tuple(
            SubnetSummary(
                SubnetId(row["id"]),
                row.get("friendly_id"),
                parsing.parse_text(row["name"]),
                str(row["state"]),
            )
            for row in sorted(rows, key=lambda row: int(row["id"]))
        )

    return await chain.query(work)


async def fetch_overview(
    chain: SubstrateChain, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
) -> SubnetOverview | None:
    """Return the subnet at ``at_block`` or at the head; None if there is none by this id."""
    epoch_length = (await chain.fetch_info()).epoch_length

    def work(session: ChainSession) -> SubnetOverview | None:
        at = session.read_head_hash() if at_block is None else session.read_block_hash(at_block)
        return _read_overview(session, subnet_id, at=at, epoch_length=epoch_length)

    return await chain.query(work)


def _read_overview(
    session: ChainSession, subnet_id: SubnetId, *, at: str, epoch_length: int
) -> SubnetOverview | None:
    record = session.read("Network.SubnetsData", subnet_id, at=at)
    if record is None:
        return None
    head = read_block(session, session.read_header(at).number, at)
    slot = session.read("Network.SubnetSlot", subnet_id, at=at)
    owner = session.read("Network.SubnetOwner", subnet_id, at=at)
    position = phase = seconds_left = elected = submission = None
    if slot is not None:
        position = compute_epoch_position(head.number, slot=slot, epoch_length=epoch_length)
        phase = phase_at(position, compute_schedule(epoch_length, MAINNET))
        pace_s = _measure_pace(session, head)
        if pace_s is not None:
            seconds_left = pace_s * (position.length - position.offset)
        elected = session.read("Network.SubnetElectedValidator", subnet_id, position.epoch, at=at)
        submission = session.read(
            "Network.SubnetConsensusSubmission", subnet_id, position.epoch, at=at
        )
    return SubnetOverview(
        head=head,
        subnet=parsing.parse_subnet(record, slot=slot),
        state=str(record["state"]),
        friendly_id=record.get("friendly_id"),
        owner=None if owner is None else parsing.parse_bytes(owner),
        nodes=_read_nodes(session, subnet_id, at=at),
        position=position,
        phase=phase,
        seconds_left=seconds_left,
        elected=None if elected is None else SubnetNodeId(elected),
        submission=None if submission is None else parsing.parse_submission(submission),
    )


def _read_nodes(session: ChainSession, subnet_id: SubnetId, *, at: str) -> tuple[NodeOverview, ...]:
    rows = []
    for item, is_queued in (("SubnetNodesData", False), ("RegisteredSubnetNodesData", True)):
        for _, record in session.read_map(f"Network.{item}", subnet_id, at=at):
            node = parse_registered_node(record, is_queued=is_queued)
            hotkey = f"0x{node.hotkey.hex()}"
            coldkey = session.read("Network.HotkeyOwner", hotkey, at=at, default=True)
            stake = session.read(
                "Network.AccountSubnetStake", hotkey, subnet_id, at=at, default=True
            )
            reputation = session.read(
                "Network.SubnetNodeReputation", subnet_id, node.node_id, at=at, default=True
            )
            rows.append(NodeOverview(node, parsing.parse_bytes(coldkey), stake, reputation))
    return tuple(sorted(rows, key=lambda row: row.node.node_id))


def _measure_pace(session: ChainSession, head: BlockInfo) -> float | None:
    """Return the seconds between the last blocks; None while there are too few to tell."""
    earlier = max(1, head.number - PACE_BLOCKS)
    if earlier >= head.number:
        return None
    first = read_block(session, earlier, session.read_block_hash(earlier))
    return (head.timestamp_s - first.timestamp_s) / (head.number - earlier)
