"""Who runs in a local network: names, roles, block ranges, accounts. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.types import BlockRange, Role

OWNER_ACCOUNT = 0
"""Alith owns the subnet and funds the others."""
FIRST_NODE_ACCOUNT = 100
"""Node accounts start here, clear of the six named development accounts."""
MAX_NODES = 64


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node. Account numbers are indices below the development mnemonic."""

    name: str
    role: Role
    blocks: BlockRange | None
    coldkey_account: int
    hotkey_account: int


def plan_nodes(*, hosters: int, validators: int, num_blocks: int) -> tuple[NodePlan, ...]:
    """Return the nodes of a local network.

    The first two hosters serve every block, the others by turns the first and the last
    five eighths, so that with four hosters every block has three and no two ranges of
    the last two are equal.
    """
    roles = [Role.HOSTER] * hosters + [Role.VALIDATOR] * validators
    nodes = []
    for index, role in enumerate(roles):
        number = index + 1 if role is Role.HOSTER else index - hosters + 1
        nodes.append(
            NodePlan(
                name=f"{role.value}-{number}",
                role=role,
                blocks=_choose_blocks(index, num_blocks) if role is Role.HOSTER else None,
                coldkey_account=FIRST_NODE_ACCOUNT + 2 * index,
                hotkey_account=FIRST_NODE_ACCOUNT + 2 * index + 1,
            )
        )
    return tuple(nodes)


def _choose_blocks(index: int, num_blocks: int) -> BlockRange:
    if index < 2:
        return BlockRange(0, num_blocks)
    part = min(num_blocks, -(-5 * num_blocks // 8))
    if index % 2 == 0:
        return BlockRange(0, part)
    return BlockRange(num_blocks - part, num_blocks)
