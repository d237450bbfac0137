"""The conditions of each call, checked against the chain before it is signed: ``--dry-run``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.types import SubnetId, SubnetNodeId
from keys.peer import PeerId
from subnet.account.registration import (
    TENSOR,
    ActivationRules,
    NodeRegistration,
    RegisteredNode,
    SubnetRegistration,
    build_node_arguments,
    build_subnet_arguments,
    fetch_activation_rules,
    fetch_registered_node,
    hex_account,
    read_at_head,
)
from subnet.chain import parsing
from subnet.chain.substrate import SubstrateChain, read_position

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

FEE_ALLOWANCE = TENSOR // 1000
"""Far above any fee of this chain, far below any amount that matters."""


@dataclass(frozen=True, slots=True)
class Precondition:
    """One condition of a call, and whether it holds."""

    condition: str
    holds: bool


async def check_transfer(
    chain: SubstrateChain, *, sender: bytes, amount: int
) -> tuple[Precondition, ...]:
    """Return the conditions of a transfer."""
    return (await _check_balance(chain, sender, amount),)


async def check_register_subnet(
    chain: SubstrateChain, registration: SubnetRegistration, *, owner: bytes
) -> tuple[Precondition, ...]:
    """Return the conditions of register_subnet. Raises ConfigError for a malformed bootnode."""
    build_subnet_arguments(registration)

    def work(session: ChainSession) -> tuple[Precondition, ...]:
        at = session.read_head_hash()
        name, repo = registration.name.encode(), registration.repo.encode()
        least, most, network_most, nodes = (
            session.read(f"Network.{item}", at=at, default=True)
            for item in (
                "MinSubnetMinStake",
                "MaxSubnetMinStake",
                "NetworkMaxStakeBalance",
                "MinSubnetNodes",
            )
        )
        return (
            Precondition(
                "the name is free", session.read("Network.SubnetName", name, at=at) is None
            ),
            Precondition(
                "the repo is free", session.read("Network.SubnetRepo", repo, at=at) is None
            ),
            Precondition("there is a bootnode", bool(registration.bootnodes)),
            Precondition(
                f"the minimum stake is {_show(least)} to {_show(most)}",
                least <= registration.min_stake <= most,
            ),
            Precondition(
                f"the maximum stake is at least the minimum and at most {_show(network_most)}",
                registration.min_stake <= registration.max_stake <= network_most,
            ),
            Precondition(
                f"there are {nodes} initial coldkeys or more, each for one node or more",
                len(registration.initial_coldkeys) >= nodes
                and all(count >= 1 for count in registration.initial_coldkeys.values()),
            ),
        )

    # The price decays from block to block, so the balance is held against the most it may be.
    balance = await _check_balance(chain, owner, min(registration.max_cost, 2 * TENSOR))
    return (*await chain.query(work), balance)


async def check_register_node(
    chain: SubstrateChain, registration: NodeRegistration, *, coldkey: bytes
) -> tuple[Precondition, ...]:
    """Return the conditions of register_subnet_node. Raises ConfigError for a bad address."""
    build_node_arguments(registration)
    subnet_id = registration.subnet_id

    def work(session: ChainSession) -> tuple[Precondition, ...]:
        at = session.read_head_hash()
        record = session.read("Network.SubnetsData", subnet_id, at=at)
        owner = session.read("Network.HotkeyOwner", hex_account(registration.hotkey), at=at)
        least = session.read("Network.SubnetMinStakeBalance", subnet_id, at=at, default=True)
        most = session.read("Network.SubnetMaxStakeBalance", subnet_id, at=at, default=True)
        places = _count_places(session, subnet_id, coldkey, at=at)
        peers = _list_peers(registration)
        return (
            Precondition("the subnet exists", record is not None),
            Precondition("the subnet is not paused", record is None or record["state"] != "Paused"),
            Precondition("hotkey and coldkey differ", registration.hotkey != coldkey),
            Precondition("the hotkey has no owner", owner is None),
            Precondition("the coldkey may register here", places is None or places > 0),
            Precondition("the node's peer ids differ", len(set(peers)) == len(peers)),
            Precondition(
                "the node's peer ids are new to the subnet",
                not any(_is_peer_known(session, subnet_id, peer, at=at) for peer in peers),
            ),
            Precondition(
                f"the stake is {_show(least)} to {_show(most)}",
                least <= registration.stake <= most,
            ),
        )

    balance = await _check_balance(chain, coldkey, registration.stake)
    return (*await chain.query(work), balance)


async def check_activate_node(
    chain: SubstrateChain, *, subnet_id: SubnetId, node_id: SubnetNodeId, coldkey: bytes
) -> tuple[Precondition, ...]:
    """Return the conditions of activate_subnet_node."""
    rules = await fetch_activation_rules(chain, subnet_id)
    node = await fetch_registered_node(chain, subnet_id=subnet_id, node_id=node_id)
    owner = b""
    if node is not None:
        item, hotkey = "Network.HotkeyOwner", hex_account(node.hotkey)
        owner = parsing.parse_bytes(await read_at_head(chain, item, hotkey, default=True))
    return (
        Precondition("the chain lets owners activate their nodes", not rules.is_automatic),
        Precondition("the node is registered", node is not None),
        Precondition("the node is not active yet", node is None or node.is_queued),
        Precondition("the signer is the node's coldkey", owner == coldkey),
        *([] if node is None else [await _check_window(chain, subnet_id, node, rules)]),
    )


async def _check_window(
    chain: SubstrateChain, subnet_id: SubnetId, node: RegisteredNode, rules: ActivationRules
) -> Precondition:
    """Return whether the present epoch is one in which the node may be activated."""
    length = (await chain.fetch_info()).epoch_length

    position, _ = await chain.query(
        lambda session: read_position(session, subnet_id, epoch_length=length)
    )
    epoch = position.epoch
    first, last = node.start_epoch, node.start_epoch + (rules.grace_epochs or 0)
    return Precondition(
        f"the epoch is {first} to {last}, in which the node may be activated (it is {epoch})",
        first <= epoch <= last,
    )


async def check_activate_subnet(
    chain: SubstrateChain, *, subnet_id: SubnetId, owner: bytes
) -> tuple[Precondition, ...]:
    """Return the conditions of activate_subnet."""

    def work(session: ChainSession) -> tuple[Precondition, ...]:
        at = session.read_head_hash()
        record = session.read("Network.SubnetsData", subnet_id, at=at)
        active = session.read("Network.TotalActiveSubnetNodes", subnet_id, at=at, default=True)
        least = session.read("Network.MinSubnetNodes", at=at, default=True)
        return (
            Precondition("the subnet exists", record is not None),
            Precondition(
                "the subnet is not active yet", record is None or record["state"] != "Active"
            ),
            _check_owner(session, subnet_id, owner, at=at),
            Precondition(f"{least} nodes or more are active ({active} are)", active >= least),
        )

    return await chain.query(work)


async def check_call(
    chain: SubstrateChain,
    call: str,
    arguments: Mapping[str, object],
    *,
    signer: bytes,
    owner_only: bool = False,
    node_id: int | None = None,
) -> tuple[Precondition, ...]:
    """Return the conditions of any call of the Network pallet: it exists, and may be signed.

    ``owner_only`` calls are the subnet owner's; with ``node_id`` the signer owns that node or is
    its hotkey. Raises ChainMismatch for a call that the runtime lacks.
    """
    subnet_id = arguments.get("subnet_id")

    def work(session: ChainSession) -> tuple[Precondition, ...]:
        from subnet.chain.extrinsics import Call

        session.encode_call(Call("Network", call, arguments))
        at = session.read_head_hash()
        checks = [Precondition(f"the runtime takes {call} with these arguments", True)]
        if owner_only:
            checks.append(_check_owner(session, subnet_id, signer, at=at))
        if node_id is not None:
            keys = _read_node_keys(session, subnet_id, node_id, at=at)
            checks.append(Precondition("the node is registered", bool(keys)))
            checks.append(
                Precondition("the signer is the node's coldkey or hotkey", signer in keys)
            )
        return tuple(checks)

    amount = arguments.get("stake_to_be_added", 0)
    balance = await _check_balance(chain, signer, amount if isinstance(amount, int) else 0)
    return (*await chain.query(work), balance)


def _check_owner(
    session: ChainSession, subnet_id: object, account: bytes, *, at: str
) -> Precondition:
    owner = session.read("Network.SubnetOwner", subnet_id, at=at)
    is_owner = owner is not None and parsing.parse_bytes(owner) == account
    return Precondition("the signer owns the subnet", is_owner)


def _read_node_keys(
    session: ChainSession, subnet_id: object, node_id: int, *, at: str
) -> tuple[bytes, ...]:
    hotkey = session.read("Network.SubnetNodeIdHotkey", subnet_id, node_id, at=at)
    if hotkey is None:
        return ()
    coldkey = session.read("Network.HotkeyOwner", hotkey, at=at, default=True)
    return parsing.parse_bytes(hotkey), parsing.parse_bytes(coldkey)


async def _check_balance(chain: SubstrateChain, account_id: bytes, amount: int) -> Precondition:
    balance = await chain.fetch_balance(account_id)
    needed = amount + FEE_ALLOWANCE
    return Precondition(
        f"the balance covers {_show(amount)} and the fee ({_show(balance)} there)",
        balance >= needed,
    )


def _count_places(
    session: ChainSession, subnet_id: SubnetId, coldkey: bytes, *, at: str
) -> int | None:
    """Return how many nodes the coldkey may still register; None where there is no list."""
    allowed = session.read("Network.SubnetRegistrationInitialColdkeys", subnet_id, at=at)
    if allowed is None:
        return None
    used = session.read("Network.InitialColdkeyData", subnet_id, at=at) or []
    counts = [
        sum(count for account, count in pairs if parsing.parse_bytes(account) == coldkey)
        for pairs in (allowed, used)
    ]
    return int(counts[0] - counts[1])


def _list_peers(registration: NodeRegistration) -> list[PeerId]:
    named = (registration.peer_id, registration.bootnode_peer_id, registration.client_peer_id)
    return [peer for peer in named if peer is not None]


def _is_peer_known(session: ChainSession, subnet_id: SubnetId, peer: PeerId, *, at: str) -> bool:
    text = peer.to_base58().encode("ascii")
    return any(
        session.read(f"Network.{item}", subnet_id, text, at=at)
        for item in ("PeerIdSubnetNodeId", "BootnodePeerIdSubnetNodeId", "ClientPeerIdSubnetNodeId")
    )


def _show(amount: int) -> str:
    return f"{amount / TENSOR:.6f}".rstrip("0").rstrip(".") + " TENSOR"
