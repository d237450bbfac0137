"""The nodes of a local network: names, roles, layer ranges, accounts. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.types import LayerRange, Role

OWNER_ACCOUNT = 0
"""Alith owns the subnet and funds the others."""
FIRST_NODE_ACCOUNT = 100
"""Node accounts start here, clear of the six named development accounts."""
MAX_NODES = 64
MAX_RUNS = 1 << 20


@dataclass(frozen=True, slots=True)
class RunNames:
    """What a chain keeps for good, so that each run on the same chain needs its own.

    ``subnet`` is the subnet's name and repository; node accounts start at ``first_account``.
    """

    subnet: str = "localnet"
    first_account: int = FIRST_NODE_ACCOUNT

    @classmethod
    def for_run(cls, number: int) -> RunNames:
        """Return the names of one run out of MAX_RUNS on a chain that outlives it."""
        assert 0 <= number < MAX_RUNS
        return cls(f"localnet-{number:05x}", FIRST_NODE_ACCOUNT + 2 * MAX_NODES * (number + 1))


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node. Account numbers are indices below the development mnemonic."""

    name: str
    role: Role
    layers: LayerRange | None
    coldkey_account: int
    hotkey_account: int


def plan_nodes(
    *,
    hosters: int,
    validators: int,
    num_layers: int,
    first_account: int = FIRST_NODE_ACCOUNT,
    ranges: int | None = None,
) -> tuple[NodePlan, ...]:
    """Return the nodes of a local network, with accounts from ``first_account`` on.

    With ``ranges`` the first hosters serve so many parts of equal size and the others every layer.
    Else the first two hosters serve every layer, the others by turns the first and the last
    five eighths, so that with four hosters every layer has three and no two ranges of
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
                layers=(_choose_layers(index, num_layers, ranges) if role is Role.HOSTER else None),
                coldkey_account=first_account + 2 * index,
                hotkey_account=first_account + 2 * index + 1,
            )
        )
    return tuple(nodes)


def _choose_layers(index: int, num_layers: int, ranges: int | None) -> LayerRange:
    if ranges is not None:
        if index >= ranges:
            return LayerRange(0, num_layers)
        return LayerRange(index * num_layers // ranges, (index + 1) * num_layers // ranges)
    if index < 2:
        return LayerRange(0, num_layers)
    part = min(num_layers, -(-5 * num_layers // 8))
    if index % 2 == 0:
        return LayerRange(0, part)
    return LayerRange(num_layers - part, num_layers)
