"""What one epoch of a subnet paid and took, as the chain's events tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.types import BlockNumber, Epoch, SubnetId, SubnetNodeId
from subnet.chain import parsing
from subnet.chain.events import ChainEvent
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession


@dataclass(frozen=True, slots=True)
class EpochRewards:
    """The settlement of ``epoch``, in the first block of the next one.

    Amounts are units of 10^-18 TENSOR. ``is_agreed`` is False where there was no proposal, or too
    few attested it. ``slashed`` maps a hotkey to what its stake lost; ``reputations`` maps a node
    to its reputation before and after, 10^18 is one.
    """

    subnet_id: SubnetId
    epoch: Epoch
    block: BlockNumber
    is_agreed: bool
    nodes: Mapping[SubnetNodeId, int]
    delegators: int
    slashed: Mapping[bytes, int]
    reputations: Mapping[SubnetNodeId, tuple[int, int]]


async def fetch_rewards(
    chain: SubstrateChain, subnet_id: SubnetId, epoch: Epoch | None = None
) -> EpochRewards:
    """Return how ``epoch`` was settled; None means the last one that was.

    Raises ConfigError while the epoch lasts, ChainUnavailable for a block whose state the
    endpoint no longer keeps.
    """
    length = (await chain.fetch_info()).epoch_length

    def work(session: ChainSession) -> EpochRewards | None:
        header, at = session.read_head()
        slot = session.read("Network.SubnetSlot", subnet_id, at=at)
        record = session.read("Network.SubnetsData", subnet_id, at=at)
        if slot is None or record is None:
            return None
        last = (header.number - slot) // length - 1
        wanted = last if epoch is None else epoch
        if not _find_first(record, is_named=epoch is not None) <= wanted <= last:
            return None
        settled = (wanted + 1) * length + slot
        events = [event for _, event in session.read_events(session.read_block_hash(settled))]
        own = [
            event
            for event in events
            if event.pallet == "Network" and _get(event, "subnet_id", 0) == subnet_id
        ]
        return _collect(own, subnet_id, Epoch(wanted), BlockNumber(settled))

    rewards = await chain.query(work)
    if rewards is None and epoch is None:
        raise ConfigError(f"no epoch of subnet {subnet_id} is settled yet", "ask an epoch later")
    if rewards is None:
        raise ConfigError(f"epoch {epoch} is not settled yet", "ask for an earlier --epoch")
    return rewards


def _find_first(subnet: Mapping[str, Any], *, is_named: bool) -> int:
    """Return the first epoch that may be asked for.

    Epochs pass, and settle nothing, for a subnet that waits to be activated, whose start epoch is
    the largest number there is. Going on after a pause sets it anew: what was settled before can
    be asked for by its number.
    """
    start, state = int(subnet["start_epoch"]), str(subnet["state"])
    return start if state == "Registered" or (state == "Active" and not is_named) else 0


def _collect(
    events: list[ChainEvent], subnet_id: SubnetId, epoch: Epoch, block: BlockNumber
) -> EpochRewards:
    nodes: dict[SubnetNodeId, int] = {}
    slashed: dict[bytes, int] = {}
    reputations: dict[SubnetNodeId, tuple[int, int]] = {}
    delegators, is_agreed = 0, False
    for event in events:
        if event.name == "SubnetRewards":
            is_agreed = True
            delegators += int(_get(event, "delegate_stake_reward", 2))
            for node_id, amount in _get(event, "node_rewards", 1):
                nodes[SubnetNodeId(node_id)] = nodes.get(SubnetNodeId(node_id), 0) + int(amount)
        elif event.name == "Slashing":
            account = parsing.parse_bytes(_get(event, "account_id", 1))
            slashed[account] = slashed.get(account, 0) + int(_get(event, "amount", 2))
        elif event.name == "NodeReputationUpdate":
            node_id = SubnetNodeId(_get(event, "subnet_node_id", 1))
            before = reputations[node_id][0] if node_id in reputations else None
            was, now = _get(event, "prev_reputation", 2), _get(event, "new_reputation", 3)
            reputations[node_id] = (int(was) if before is None else before, int(now))
    return EpochRewards(subnet_id, epoch, block, is_agreed, nodes, delegators, slashed, reputations)


def _get(event: ChainEvent, name: str, position: int) -> Any:
    """Return a field by its name, or by position in an event whose fields have none."""
    return event.fields.get(name, event.fields.get(str(position)))
