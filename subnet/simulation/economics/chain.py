"""The production ledger under the swarm: elections, rewards, slashes, reputation, removals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from consensus.roster import RosterNode
from consensus.types import Epoch
from devchain import storage
from devchain.calls import Attest, ProposeAttestation
from devchain.chain_types import ONE, TENSOR, SubnetNodeConsensusData
from subnet.simulation.chain import (
    BLOCK_TIME_S,
    GENESIS_TIME_S,
    SUBNET_ID,
    NodeAccount,
    delegate,
    found_subnet,
    open_ledger,
)
from subnet.simulation.ledger_reads import read_elected_validator, read_nodes, read_subnet
from subnet.simulation.windows import EPOCH_LENGTH

QUEUED_VICTIM = 4_000_000
"""A node that a thief has removed from the queue."""


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What the chain made of a node: stake gained, 1.0 being a TENSOR, and reputation of 0 to 1.

    The reputation of a node that the chain removed is 0.
    """

    gained: float
    reputation: float


class EconomicChain:
    """One subnet on the production ledger; callers name nodes by the keys of ``accounts``."""

    def __init__(self, accounts: Mapping[int, NodeAccount]) -> None:
        self._accounts = dict(accounts)
        self._ids = {node: place for place, node in enumerate(accounts, start=1)}
        self._nodes = {place: node for node, place in self._ids.items()}
        self._ledger = open_ledger(list(accounts.values()))
        self._begin_block()
        found_subnet(self._ledger, list(accounts.values()))
        owner = next(iter(accounts.values())).coldkey
        delegate(self._ledger, owner)
        while self.advance() is None:
            pass
        self._staked = {node: self._read_stake(node) for node in accounts}

    def advance(self) -> int | None:
        """Go to the first block of the next epoch; return the node that is elected in it."""
        self._begin_block()
        while (self._ledger.block - self._read_slot()) % EPOCH_LENGTH:
            self._begin_block()
        elected = read_elected_validator(self._ledger, SUBNET_ID, self._compute_epoch())
        return None if elected is None else self._nodes[elected]

    def read_roster(self) -> dict[int, RosterNode]:
        """Return the nodes that the chain lists, by the callers' names."""
        return {self._nodes[node.node_id]: node for node in read_nodes(self._ledger, SUBNET_ID)}

    def propose(self, proposer: int, rows: Mapping[int, int], *, queue_removes: bool) -> None:
        data = tuple(
            SubnetNodeConsensusData(self._ids[node], score) for node, score in sorted(rows.items())
        )
        victim = QUEUED_VICTIM if queue_removes else None
        call = ProposeAttestation(SUBNET_ID, data, remove_queue_node_id=victim)
        self._ledger.apply(self._accounts[proposer].hotkey, call)

    def attest(self, node: int) -> None:
        """Attest; the chain counts the proposer's own attestation with its proposal."""
        self._ledger.apply(self._accounts[node].hotkey, Attest(SUBNET_ID))

    def read_outcome(self, node: int) -> NodeOutcome:
        gained = (self._read_stake(node) - self._staked[node]) / TENSOR
        state, place = self._ledger.state, self._ids[node]
        if not state.contains(storage.SUBNET_NODES_DATA, SUBNET_ID, place):
            return NodeOutcome(gained, 0.0)
        reputation = state.get(storage.SUBNET_NODE_REPUTATION, SUBNET_ID, place)
        return NodeOutcome(gained, reputation / ONE)

    def _begin_block(self) -> None:
        number = self._ledger.block + 1
        self._ledger.begin_block(number, 1000 * (GENESIS_TIME_S + number * BLOCK_TIME_S))

    def _read_slot(self) -> int:
        subnet = read_subnet(self._ledger, SUBNET_ID)
        assert subnet is not None
        return subnet.slot or 0

    def _compute_epoch(self) -> Epoch:
        return Epoch((self._ledger.block - self._read_slot()) // EPOCH_LENGTH)

    def _read_stake(self, node: int) -> int:
        hotkey = self._accounts[node].hotkey
        return int(self._ledger.state.get(storage.ACCOUNT_SUBNET_STAKE, hotkey, SUBNET_ID))
