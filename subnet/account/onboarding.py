"""Register and activate a node. Safe to re-run: each step checks the chain first.

The steps: fund the hotkey, register, wait for the activation window, activate. Where the chain
activates nodes from its queue by itself, the last step only waits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from consensus.types import EpochPosition, SubnetNodeId, compute_epoch_position
from keys.account import AccountKey
from subnet.account import registration
from subnet.account.money import is_hotkey_funded
from subnet.account.registration import TENSOR, NodeRegistration, RegisteredNode
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.interfaces import BlockInfo
from subnet.errors import ConfigError

HOTKEY_FUNDS = TENSOR // 100

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class OnboardingPlan:
    """What is registered, and the coldkey that pays and signs."""

    wanted: NodeRegistration
    coldkey: AccountKey


async def onboard(chain: SubstrateChain, plan: OnboardingPlan, *, say: Say) -> RegisteredNode:
    """Fund the hotkey, register, wait for the activation window, activate; return the node.

    ``say`` gets a line for each step and for each block of the wait. Raises ConfigError when the
    window has closed or the peer id belongs to another node; ExtrinsicFailed, ChainUnavailable.
    """
    await _fund_hotkey(chain, plan, say)
    node_id = await _register(chain, plan, say)
    return await _activate(chain, plan, node_id, say)


async def _fund_hotkey(chain: SubstrateChain, plan: OnboardingPlan, say: Say) -> None:
    """Send the hotkey money for fees unless it has some."""
    hotkey = plan.wanted.hotkey
    if await is_hotkey_funded(chain, hotkey):
        say("the hotkey can pay its fees")
        return
    say("sending 0.01 TENSOR to the hotkey for its fees")
    await registration.transfer(chain, sender=plan.coldkey, recipient=hotkey, amount=HOTKEY_FUNDS)


async def _register(chain: SubstrateChain, plan: OnboardingPlan, say: Say) -> SubnetNodeId:
    """Register the node unless its peer id is registered; return the node's id."""
    wanted = plan.wanted
    found = await registration.find_node_by_peer_id(
        chain, subnet_id=wanted.subnet_id, peer_id=wanted.peer_id
    )
    if found is None:
        say("registering the node")
        return (await registration.register_node(chain, wanted, coldkey=plan.coldkey)).node_id
    node = await registration.fetch_registered_node(
        chain, subnet_id=wanted.subnet_id, node_id=found
    )
    if node is None or node.hotkey != wanted.hotkey:
        raise ConfigError(
            f"the peer id belongs to node {found}, which has another hotkey",
            "use that node's hotkey, or make new identity files with `mesh keygen`",
        )
    say(f"the node is registered already: its id is {found}")
    return found


async def _activate(
    chain: SubstrateChain, plan: OnboardingPlan, node_id: SubnetNodeId, say: Say
) -> RegisteredNode:
    """Activate the node in the first block that allows it; return it once it is active."""
    subnet_id = plan.wanted.subnet_id
    rules = await registration.fetch_activation_rules(chain, subnet_id)
    async with aclosing(chain.heads()) as heads:
        async for head in heads:
            node = await registration.fetch_registered_node(
                chain, subnet_id=subnet_id, node_id=node_id
            )
            if node is None:
                raise ConfigError(
                    f"node {node_id} is gone from the chain", "register it again: run this again"
                )
            if not node.is_queued:
                return node
            position = await _locate(chain, plan, head)
            if rules.is_automatic:
                say(f"queued in epoch {position.epoch}: the chain activates the node by itself")
            elif position.epoch < node.start_epoch:
                blocks = position.length * (node.start_epoch - position.epoch) - position.offset
                say(f"the activation window opens in {blocks} blocks")
            elif position.epoch > node.start_epoch + (rules.grace_epochs or 0):
                raise ConfigError(
                    f"the activation window of node {node_id} closed after epoch"
                    f" {node.start_epoch + (rules.grace_epochs or 0)}",
                    f"run `mesh chain leave --subnet {subnet_id} --hotkey 0x{node.hotkey.hex()}`"
                    " with the same coldkey, which brings its stake back, then this again",
                )
            else:
                say("activating the node")
                await registration.activate_node(
                    chain, subnet_id=subnet_id, node_id=node_id, coldkey=plan.coldkey
                )
    raise AssertionError("the chain's heads never end")


async def _locate(chain: SubstrateChain, plan: OnboardingPlan, head: BlockInfo) -> EpochPosition:
    """Return where ``head`` stands in the subnet's epochs; slot 0 while it has none."""
    subnet = await chain.fetch_subnet(plan.wanted.subnet_id)
    length = (await chain.fetch_info()).epoch_length
    slot = 0 if subnet is None or subnet.slot is None else subnet.slot
    return compute_epoch_position(head.number, slot=slot, epoch_length=length)
