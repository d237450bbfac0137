"""Whether a node can be elected, attest and be paid in the next epoch, from what the chain says.

All of it is public, so it is told of any node: the monitor does so of each, and a node of itself,
with what its process knows beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from consensus.types import Epoch, NodeClass
from subnet.account.money import MIN_HOTKEY_BALANCE

ONE = 10**18


class Obstacle(StrEnum):
    """Why a node is not eligible, as metrics and the monitor's API call it."""

    SUBNET_PAUSED = "subnet_paused"
    SUBNET_INACTIVE = "subnet_inactive"
    QUEUED = "queued"
    REGISTERED = "registered"
    IDLE = "idle"
    INCLUDED = "included"
    STARTS_LATER = "starts_later"
    LOW_REPUTATION = "low_reputation"
    LOW_BALANCE = "low_balance"
    PROCESS = "process"
    """The process cannot do it, as it runs now; only the node itself knows that."""


_OF_CLASS = {
    NodeClass.REGISTERED: Obstacle.REGISTERED,
    NodeClass.IDLE: Obstacle.IDLE,
    NodeClass.INCLUDED: Obstacle.INCLUDED,
}


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether a node can be elected, attest and be paid in ``epoch``.

    If not, ``obstacle`` is the kind of reason and ``reason`` says it; both are None otherwise.
    """

    epoch: Epoch
    obstacle: Obstacle | None = None
    reason: str | None = None

    def __str__(self) -> str:
        verdict = "eligible" if self.obstacle is None else f"not eligible: {self.reason}"
        return f"epoch {self.epoch}: {verdict}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOnChain:
    """What the chain says of a node. Reputations have 10^18 as one.

    ``hotkey_balance`` is in units of 10^-18 TENSOR. ``epoch`` is the present one.
    """

    epoch: Epoch
    subnet_state: str
    node_class: NodeClass
    is_queued: bool
    start_epoch: int
    reputation: int
    min_reputation: int
    hotkey_balance: int


def judge_eligibility(node: NodeOnChain) -> Eligibility:
    """Return whether a node is eligible in the epoch after the present one."""
    obstacle = _find_obstacle(node)
    reason = None if obstacle is None else _describe(obstacle, node)
    return Eligibility(Epoch(node.epoch + 1), obstacle, reason)


def _find_obstacle(node: NodeOnChain) -> Obstacle | None:
    if node.subnet_state == "Paused":
        return Obstacle.SUBNET_PAUSED
    if node.subnet_state != "Active":
        return Obstacle.SUBNET_INACTIVE
    if node.is_queued:
        return Obstacle.QUEUED
    if node.node_class is not NodeClass.VALIDATOR:
        return _OF_CLASS[node.node_class]
    if node.start_epoch > node.epoch + 1:
        return Obstacle.STARTS_LATER
    if node.reputation < node.min_reputation:
        return Obstacle.LOW_REPUTATION
    return Obstacle.LOW_BALANCE if node.hotkey_balance < MIN_HOTKEY_BALANCE else None


def _describe(obstacle: Obstacle, node: NodeOnChain) -> str:
    match obstacle:
        case Obstacle.SUBNET_PAUSED:
            return "the subnet's owner has paused it"
        case Obstacle.SUBNET_INACTIVE:
            return "the subnet waits for its owner's activate-subnet"
        case Obstacle.QUEUED:
            return "it waits in the queue"
        case Obstacle.STARTS_LATER:
            return f"Validator only from epoch {node.start_epoch} on"
        case Obstacle.LOW_REPUTATION:
            return (
                f"its reputation {node.reputation / ONE:.3f} is below"
                f" {node.min_reputation / ONE:.3f}, and the chain removes it"
            )
        case Obstacle.LOW_BALANCE:
            return "its hotkey cannot pay a fee, so it can neither propose nor attest"
    return f"its class is {node.node_class.name.capitalize()}, not Validator"
