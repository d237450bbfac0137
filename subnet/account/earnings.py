"""What one node earned and lost, epoch by epoch, and what it would lose by being away.

A row says what the chain did in the block that settled a proposal: events give pay, slashes and
reputations; the proposal gives the proposer's reward, which stands in no event; and the node's
stake before and after that block must differ by just that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.types import BlockNumber, Epoch, NodeClass, SubnetId, SubnetNodeId
from mesh.progress import Step, ignore_step
from subnet.account.eligibility import ONE
from subnet.account.rewards import NOT_YET, EpochRewards, ReputationStep, fetch_rewards
from subnet.account.standing import Standing
from subnet.chain import parsing
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainUnavailable, ConfigError

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

MAX_EPOCHS = 1000
"""Epochs of one answer, and what a node keeps of its own."""
HOUR_S = 3600
NOT_LISTED = "it was not among the activated nodes of the proposal"


@dataclass(frozen=True, slots=True)
class StakeChange:
    """The stake of the node's hotkey before and after a block, in units of 10^-18 TENSOR.

    ``moved`` is what its owner added in that block, less what was taken out.
    """

    before: int
    after: int
    moved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEarnings:
    """What the proposal that scored ``epoch`` brought one node, settled in ``block``.

    Amounts are units of 10^-18 TENSOR. ``paid`` is the node's share of the emissions, ``shared``
    what went from it to delegators and a delegate account. ``proposing`` is the base reward for
    the proposal, None for a node that was not elected. ``unpaid`` says why ``paid`` is 0, and
    ``shortfall`` why the epoch paid at most its proposer. ``promoted`` is the class that the node
    came to; ``is_removed`` that the chain removed it. ``stake`` is None where the node had no
    hotkey any more.
    """

    epoch: Epoch
    node_id: SubnetNodeId
    block: BlockNumber
    is_agreed: bool
    paid: int
    shared: int
    proposing: int | None
    slashed: int
    reputation: tuple[ReputationStep, ...]
    unpaid: str | None
    shortfall: str | None
    promoted: str | None
    is_removed: bool
    stake: StakeChange | None

    @property
    def gain(self) -> int:
        """What the events and the proposal say that the stake gained, less what was slashed."""
        return self.paid + (self.proposing or 0) - self.slashed

    @property
    def is_waiting(self) -> bool:
        """Whether the node got nothing because it is not of class Validator yet."""
        is_class = self.unpaid is None or self.unpaid.endswith(NOT_YET)
        return not self.paid and self.shortfall is None and is_class

    @property
    def difference(self) -> int:
        """What the stake changed by beside ``gain``; 0 if the row equals the chain's balances."""
        if self.stake is None:
            return 0
        return self.stake.after - self.stake.before - self.stake.moved - self.gain


@dataclass(frozen=True, slots=True)
class Earnings:
    """The rows of one node, the newest first, and why there are no older ones, if that is known."""

    rows: tuple[EpochEarnings, ...]
    missing: str | None


@dataclass(frozen=True, slots=True)
class Absence:
    """What being away for ``seconds`` would cost a node from now on.

    ``pay`` and ``proposing`` are units of 10^-18 TENSOR that it would probably not earn, from the
    mean of the last epochs and the odds of an election. ``reputation`` is what would be left of
    it, 10^18 is one; ``removed_after`` counts the epochs after which the chain removes the node,
    None if it would not within this time.
    """

    seconds: float
    epochs: int
    pay: int
    elections: float
    proposing: int
    reputation: int
    removed_after: int | None


async def fetch_earnings(
    chain: SubstrateChain,
    subnet_id: SubnetId,
    node_id: SubnetNodeId,
    *,
    count: int,
    last: Epoch | None = None,
    known_until: Epoch | None = None,
    step: Step = ignore_step,
) -> Earnings:
    """Return the node's rows for ``count`` scored epochs up to ``last``, the newest if None.

    Epochs up to ``known_until`` are left out; ``step`` hears of each that is read. Raises
    ConfigError for an epoch that is not settled, and ChainUnavailable if not even the newest one
    can be read.
    """
    try:
        rewards = await fetch_rewards(chain, subnet_id, None if last is None else Epoch(last + 1))
    except ConfigError as error:
        if last is None:
            return Earnings((), str(error))
        raise ConfigError(
            f"the scores of epoch {last} are not settled: that is when epoch {last + 1} is over",
            "name an earlier --epoch, or leave it out",
        ) from error
    rows: list[EpochEarnings] = []
    missing = None
    while True:
        epoch = Epoch(rewards.epoch - 1)
        if known_until is not None and epoch <= known_until:
            break
        rows.append(await _make_row(chain, rewards, node_id))
        step(1)
        if len(rows) >= min(count, MAX_EPOCHS) or epoch <= 0:
            break
        try:
            rewards = await fetch_rewards(chain, subnet_id, epoch)
        except ChainUnavailable as error:
            missing = f"the endpoint no longer keeps what settled epoch {epoch - 1}: {error}"
            break
        except ConfigError:
            break
        if rewards.elected is None and not rewards.is_agreed:
            missing = f"the chain elected no validator in epoch {epoch}"
            break
    return Earnings(tuple(rows), missing)


async def _make_row(
    chain: SubstrateChain, rewards: EpochRewards, node_id: SubnetNodeId
) -> EpochEarnings:
    def work(session: ChainSession) -> tuple[bytes, int, int] | None:
        before = session.read_block_hash(rewards.block - 1)
        after = session.read_block_hash(rewards.block)
        found = session.read("Network.SubnetNodeIdHotkey", rewards.subnet_id, node_id, at=before)
        if found is None:
            return None
        hotkey = parsing.parse_bytes(found)
        stakes = [
            int(
                session.read(
                    "Network.AccountSubnetStake",
                    f"0x{hotkey.hex()}",
                    rewards.subnet_id,
                    at=at,
                    default=True,
                )
            )
            for at in (before, after)
        ]
        return hotkey, stakes[0], stakes[1]

    return make_row(rewards, node_id, await chain.query(work))


def make_row(
    rewards: EpochRewards, node_id: SubnetNodeId, stakes: tuple[bytes, int, int] | None
) -> EpochEarnings:
    """Return what a settlement brought one node.

    ``stakes`` are its hotkey and that hotkey's stake before and after the settling block.
    """
    hotkey, change = b"", None
    if stakes is not None:
        hotkey = stakes[0]
        change = StakeChange(stakes[1], stakes[2], rewards.moved.get(hotkey, 0))
    proposing = 0 if rewards.elected == node_id else None
    proposer = rewards.proposer
    # The chain pays no proposer that has left the subnet.
    if proposer is not None and proposer.node_id == node_id and stakes is not None:
        proposing = proposer.amount
    promoted = rewards.promoted.get(node_id)
    shortfall = rewards.shortfall
    return EpochEarnings(
        epoch=Epoch(rewards.epoch - 1),
        node_id=node_id,
        block=rewards.block,
        is_agreed=rewards.is_agreed,
        paid=rewards.nodes.get(node_id, 0),
        shared=rewards.shared.get(node_id, 0),
        proposing=proposing,
        slashed=rewards.slashed.get(hotkey, 0),
        reputation=rewards.steps.get(node_id, ()),
        unpaid=rewards.unpaid.get(node_id),
        shortfall=None if shortfall is None else f"{shortfall.reason}; fix: {shortfall.fix}",
        promoted=None if promoted is None else promoted.name.capitalize(),
        is_removed=node_id in rewards.removed,
        stake=change,
    )


def compute_absence(
    standing: Standing, rows: Sequence[EpochEarnings], *, seconds: float = HOUR_S
) -> Absence:
    """Return what being away from now on would cost. Only a Validator is elected and paid."""
    epochs = max(1, round(seconds / standing.epoch_s))
    is_validator = standing.node.node_class is NodeClass.VALIDATOR and not standing.node.is_queued
    elections = epochs / standing.num_electable if is_validator and standing.num_electable else 0.0
    agreed = [row.paid for row in rows if row.is_agreed]
    proposed = [row.proposing for row in rows if row.proposing]
    # One that has not proposed yet is expected to do it in time, for nearly the whole base reward.
    reward = sum(proposed) // len(proposed) if proposed else ONE
    mean = sum(agreed) // len(agreed) if agreed else 0
    reputation, removed_after = standing.reputation, None
    is_judged = standing.node.node_class >= NodeClass.INCLUDED and not standing.node.is_queued
    for number in range(1, epochs + 1 if is_judged else 1):
        if reputation < standing.min_reputation:
            removed_after = number
            break
        reputation -= reputation * standing.fall // ONE
    return Absence(
        seconds=seconds,
        epochs=epochs,
        pay=mean * epochs if is_validator else 0,
        elections=elections,
        proposing=int(elections * reward),
        reputation=reputation,
        removed_after=removed_after,
    )


def render_row(row: EpochEarnings) -> dict[str, Any]:
    """Return a row as JSON values; amounts are decimal strings of integers."""
    return {
        "epoch": row.epoch,
        "subnet_node_id": row.node_id,
        "settled_in_block": row.block,
        "agreed": row.is_agreed,
        "paid": str(row.paid),
        "shared": str(row.shared),
        "proposing": None if row.proposing is None else str(row.proposing),
        "slashed": str(row.slashed),
        "reputation": [[str(s.before), str(s.after), s.cause] for s in row.reputation],
        "unpaid": row.unpaid,
        "shortfall": row.shortfall,
        "promoted": row.promoted,
        "removed": row.is_removed,
        "stake": None
        if row.stake is None
        else [str(row.stake.before), str(row.stake.after), str(row.stake.moved)],
    }


def parse_row(values: dict[str, Any]) -> EpochEarnings:
    """Return a row from what ``render_row`` gave. Raises ValueError, KeyError or TypeError."""
    proposing, stake = values["proposing"], values["stake"]
    return EpochEarnings(
        epoch=Epoch(int(values["epoch"])),
        node_id=SubnetNodeId(int(values["subnet_node_id"])),
        block=BlockNumber(int(values["settled_in_block"])),
        is_agreed=bool(values["agreed"]),
        paid=int(values["paid"]),
        shared=int(values["shared"]),
        proposing=None if proposing is None else int(proposing),
        slashed=int(values["slashed"]),
        reputation=tuple(
            ReputationStep(int(before), int(after), str(cause))
            for before, after, cause in values["reputation"]
        ),
        unpaid=_parse_text(values["unpaid"]),
        shortfall=_parse_text(values["shortfall"]),
        promoted=_parse_text(values["promoted"]),
        is_removed=bool(values["removed"]),
        stake=None if stake is None else StakeChange(*(int(amount) for amount in stake)),
    )


def _parse_text(value: Any) -> str | None:
    return None if value is None else str(value)
