"""The calls that register and activate subnets and nodes, and the reads that go with them.

``mesh chain`` and the local network use them. Amounts are integers in units of 10^-18 TENSOR,
account ids are 20 bytes, epochs are subnet epochs unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consensus.types import BlockNumber, Epoch, NodeClass, SubnetId, SubnetNodeId
from keys.account import AccountKey
from keys.errors import BadPeerId
from keys.peer import PeerId
from subnet.chain import parsing
from subnet.chain.events import find_event
from subnet.chain.items import Item
from subnet.chain.multiaddr import encode_multiaddr
from subnet.chain.sender import Inclusion
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.interfaces import ExtrinsicReceipt
from subnet.errors import ChainMismatch, ConfigError

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

TENSOR = 10**18
PERCENT = 10**16

DEFAULT_MIN_STAKE = 100 * TENSOR
DEFAULT_MAX_STAKE = 1000 * TENSOR
DEFAULT_DELEGATE_PERCENTAGE = 10 * PERCENT
DEFAULT_MAX_COST = 10 * TENSOR
DEFAULT_MAX_BURN = TENSOR

MAX_FRIENDLY_ID = 127_999
MAX_ID_DIGITS = 10
"""Ids below the first subnet id are friendly ids: FriendlyUidSubnetId knows them."""

AUTOMATIC = "Automatic"


@dataclass(frozen=True, slots=True)
class SubnetRegistration:
    """The arguments of register_subnet.

    ``initial_coldkeys`` maps an account id to the number of nodes that it may register before
    activation; ``bootnodes`` maps the text of a peer id to a multiaddr.
    ``delegate_stake_percentage`` and stakes are fixed point, 10^18 is one.
    """

    name: str
    repo: str
    initial_coldkeys: Mapping[bytes, int]
    bootnodes: Mapping[str, str]
    description: str = ""
    misc: str = ""
    min_stake: int = DEFAULT_MIN_STAKE
    max_stake: int = DEFAULT_MAX_STAKE
    delegate_stake_percentage: int = DEFAULT_DELEGATE_PERCENTAGE
    max_cost: int = DEFAULT_MAX_COST


@dataclass(frozen=True, slots=True)
class NodeRegistration:
    """The arguments of register_subnet_node. The three peer ids of a node differ."""

    subnet_id: SubnetId
    hotkey: bytes
    peer_id: PeerId
    bootnode_peer_id: PeerId | None = None
    client_peer_id: PeerId | None = None
    multiaddr: str | None = None
    bootnode_multiaddr: str | None = None
    stake: int = DEFAULT_MIN_STAKE
    delegate_reward_rate: int = 0
    unique: bytes | None = None
    non_unique: bytes | None = None
    max_burn: int = DEFAULT_MAX_BURN


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node as the chain holds it, queued or activated.

    ``is_queued`` nodes wait in RegisteredSubnetNodesData, outside every roster.
    """

    node_id: SubnetNodeId
    hotkey: bytes
    peer_id: PeerId | None
    node_class: NodeClass
    start_epoch: Epoch
    is_queued: bool


@dataclass(frozen=True, slots=True)
class SubnetRegistered:
    """The new subnet's id, and the block that registered it."""

    subnet_id: SubnetId
    receipt: ExtrinsicReceipt


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """The new node's id, and the block that registered it."""

    node_id: SubnetNodeId
    receipt: ExtrinsicReceipt
    is_queued: bool


@dataclass(frozen=True, slots=True)
class ActivationRules:
    """How this runtime activates nodes: from a queue by itself, or by a call of the operator.

    The call is valid from the node's start epoch on, for ``grace_epochs`` more epochs.
    """

    is_automatic: bool
    grace_epochs: int | None = None


@dataclass(frozen=True, slots=True)
class SubnetActivated:
    """The outcome of activate_subnet.

    ``is_active`` is False when the chain removed the subnet because its time was over.
    """

    is_active: bool
    receipt: ExtrinsicReceipt = field(repr=False)


async def read_at_head(
    chain: SubstrateChain, item: str, *params: object, default: bool = False
) -> Any:
    """Return the value of one storage item in the newest block; None if it has none."""
    return await chain.query(
        lambda session: session.read(item, *params, at=session.read_head_hash(), default=default)
    )


def hex_account(account_id: bytes) -> str:
    """Return an account id as 0x and hexadecimal digits, as SCALE arguments name it."""
    return f"0x{account_id.hex()}"


async def transfer(
    chain: SubstrateChain, *, sender: AccountKey, recipient: bytes, amount: int
) -> ExtrinsicReceipt:
    """Send ``amount``; refused if the sender's account would fall below the least balance."""
    inclusion = await chain.submit(
        "Balances",
        "transfer_keep_alive",
        {"dest": hex_account(recipient), "value": amount},
        key=sender,
    )
    return inclusion.receipt


async def transfer_many(
    chain: SubstrateChain, *, sender: AccountKey, amounts: Mapping[bytes, int]
) -> None:
    """Send each account its amount, all in one extrinsic where the chain has batch calls."""
    if not await chain.query(lambda session: session.runtime.has_call("Utility", "batch_all")):
        for account_id, amount in amounts.items():
            await transfer(chain, sender=sender, recipient=account_id, amount=amount)
        return
    calls = [
        {
            "call_module": "Balances",
            "call_function": "transfer_keep_alive",
            "call_args": {"dest": hex_account(account_id), "value": amount},
        }
        for account_id, amount in amounts.items()
    ]
    await chain.submit("Utility", "batch_all", {"calls": calls}, key=sender)


async def register_subnet(
    chain: SubstrateChain, registration: SubnetRegistration, *, owner: AccountKey
) -> SubnetRegistered:
    """Register a subnet. Raises ConfigError, ExtrinsicFailed, ChainUnavailable."""
    inclusion = await chain.submit(
        "Network", "register_subnet", build_subnet_arguments(registration), key=owner
    )
    event = find_event(inclusion.events, "Network", "SubnetRegistered")
    if event is None:
        raise ChainMismatch("register_subnet succeeded without its SubnetRegistered event")
    return SubnetRegistered(SubnetId(event.fields["subnet_id"]), inclusion.receipt)


async def register_node(
    chain: SubstrateChain, registration: NodeRegistration, *, coldkey: AccountKey
) -> NodeRegistered:
    """Register a node with its coldkey. Raises ConfigError, ExtrinsicFailed, ChainUnavailable."""
    inclusion = await chain.submit(
        "Network", "register_subnet_node", build_node_arguments(registration), key=coldkey
    )
    # The event tells of queued nodes only, so the id is read where it always stands.
    node_id = await chain.query(
        lambda session: session.read(
            "Network.HotkeySubnetNodeId",
            registration.subnet_id,
            hex_account(registration.hotkey),
            at=f"0x{inclusion.receipt.block_hash.hex()}",
        )
    )
    if node_id is None:
        raise ChainMismatch("register_subnet_node succeeded, but the chain holds no such node")
    activated = find_event(inclusion.events, "Network", "SubnetNodeActivated")
    return NodeRegistered(SubnetNodeId(node_id), inclusion.receipt, is_queued=activated is None)


async def activate_node(
    chain: SubstrateChain, *, subnet_id: SubnetId, node_id: SubnetNodeId, coldkey: AccountKey
) -> ExtrinsicReceipt:
    """Activate a node inside its activation window, signed by its coldkey.

    Raises ExtrinsicFailed("ActivationIsAutomatic") without sending anything where the chain
    activates nodes from its queue by itself.
    """
    from subnet.chain.failures import make_failure

    if (await fetch_activation_rules(chain)).is_automatic:
        raise make_failure("ActivationIsAutomatic", call="Network.activate_subnet_node")
    inclusion = await chain.submit(
        "Network",
        "activate_subnet_node",
        {"subnet_id": subnet_id, "subnet_node_id": node_id},
        key=coldkey,
    )
    return inclusion.receipt


async def activate_subnet(
    chain: SubstrateChain, *, subnet_id: SubnetId, owner: AccountKey
) -> SubnetActivated:
    """Activate a subnet that has enough nodes. Raises ExtrinsicFailed, ChainUnavailable."""
    inclusion = await chain.submit(
        "Network", "activate_subnet", {"subnet_id": subnet_id}, key=owner
    )
    is_active = find_event(inclusion.events, "Network", "SubnetActivated") is not None
    return SubnetActivated(is_active, inclusion.receipt)


async def delegate_stake(
    chain: SubstrateChain, *, subnet_id: SubnetId, amount: int, key: AccountKey
) -> ExtrinsicReceipt:
    """Add ``amount`` to the subnet's delegate stake, on which emissions depend."""
    inclusion: Inclusion = await chain.submit(
        "Network",
        "add_to_delegate_stake",
        {"subnet_id": subnet_id, "stake_to_be_added": amount},
        key=key,
    )
    return inclusion.receipt


async def fetch_activation_rules(
    chain: SubstrateChain, subnet_id: SubnetId | None = None
) -> ActivationRules:
    """Return how this runtime activates nodes, with the subnet's grace if one is named."""

    def work(session: ChainSession) -> ActivationRules:
        items = [] if subnet_id is None else list_activation_items(session, subnet_id)
        grace = session.read_items(items, at=session.read_head_hash()) if items else [None]
        return make_activation_rules(session, grace[0])

    return await chain.query(work)


def list_activation_items(session: ChainSession, subnet_id: SubnetId) -> list[Item]:
    """Return the storage items that the rules of a subnet depend on; none for some runtimes."""
    if _activates_by_itself(session):
        return []
    return [Item("Network.ActivationGraceEpochs", (subnet_id,), default=True)]


def make_activation_rules(session: ChainSession, grace: Any) -> ActivationRules:
    """Return the rules; ``grace`` is the value of the item, None if it was not asked for."""
    is_automatic = _activates_by_itself(session)
    return ActivationRules(is_automatic, grace_epochs=None if is_automatic else grace)


def _activates_by_itself(session: ChainSession) -> bool:
    mode = session.read_constant("Network.ActivationMode")
    has_call = session.runtime.has_call("Network", "activate_subnet_node")
    return not has_call or str(mode) == AUTOMATIC


def is_subnet_id(text: str) -> bool:
    """Return whether ``text`` is a subnet's id itself, and no friendly id or name of one."""
    return text.isdecimal() and len(text) <= MAX_ID_DIGITS and int(text) > MAX_FRIENDLY_ID


async def find_subnet(chain: SubstrateChain, name_or_id: str) -> SubnetId | None:
    """Return the id of the subnet with this name, id or friendly id; None if there is none."""

    def work(session: ChainSession) -> Any:
        at = session.read_head_hash()
        if not name_or_id.isdecimal():
            return session.read("Network.SubnetName", name_or_id.encode(), at=at)
        number = int(name_or_id)
        if number <= MAX_FRIENDLY_ID:
            return session.read("Network.FriendlyUidSubnetId", number, at=at)
        return number if session.read("Network.SubnetsData", number, at=at) else None

    subnet_id = await chain.query(work)
    return None if subnet_id is None else SubnetId(subnet_id)


async def find_node_by_peer_id(
    chain: SubstrateChain, *, subnet_id: SubnetId, peer_id: PeerId
) -> SubnetNodeId | None:
    """Return the id of the node that serves under this main peer id, queued or activated."""
    text = peer_id.to_base58().encode("ascii")
    node_id = await read_at_head(chain, "Network.PeerIdSubnetNodeId", subnet_id, text)
    # Zero is the map's default; node ids begin at one.
    return SubnetNodeId(node_id) if node_id else None


async def find_subnet_of_peer(chain: SubstrateChain, peer_id: PeerId) -> tuple[SubnetId, ...]:
    """Return the subnets in which a node serves under this peer id."""

    def work(session: ChainSession) -> tuple[SubnetId, ...]:
        at = session.read_head_hash()
        text = peer_id.to_base58().encode("ascii")
        subnets = [int(key) for key, _ in session.read_map("Network.SubnetsData", at=at)]
        return tuple(
            SubnetId(subnet_id)
            for subnet_id in sorted(subnets)
            if session.read("Network.PeerIdSubnetNodeId", subnet_id, text, at=at)
        )

    return await chain.query(work)


async def fetch_registered_node(
    chain: SubstrateChain,
    *,
    subnet_id: SubnetId,
    node_id: SubnetNodeId,
    at_block: BlockNumber | None = None,
) -> RegisteredNode | None:
    """Return one node, queued or activated; None if the subnet has none by this id."""

    def work(session: ChainSession) -> RegisteredNode | None:
        at = session.read_head_hash() if at_block is None else session.read_block_hash(at_block)
        return read_registered_node(session, subnet_id, node_id, at=at)

    return await chain.query(work)


def read_registered_node(
    session: ChainSession, subnet_id: SubnetId, node_id: SubnetNodeId, *, at: str
) -> RegisteredNode | None:
    """Return one node in the state of block hash ``at``, queued or activated; None without one."""
    names = ("SubnetNodesData", "RegisteredSubnetNodesData")
    items = [Item(f"Network.{name}", (subnet_id, node_id)) for name in names]
    return find_registered_node(*session.read_items(items, at=at))


def find_registered_node(
    activated: Mapping[str, Any] | None, queued: Mapping[str, Any] | None
) -> RegisteredNode | None:
    """Return the node of the two maps' records; None if neither has one."""
    for record, is_queued in ((activated, False), (queued, True)):
        if record is not None and record["id"]:
            return parse_registered_node(record, is_queued=is_queued)
    return None


def parse_registered_node(record: Mapping[str, Any], *, is_queued: bool) -> RegisteredNode:
    """Return a SubnetNode record of either map."""
    classification = record["classification"]
    return RegisteredNode(
        node_id=SubnetNodeId(record["id"]),
        hotkey=parsing.parse_bytes(record["hotkey"]),
        peer_id=parsing.parse_peer_id(record["peer_info"]["peer_id"]),
        node_class=parsing.parse_class(classification["node_class"]),
        start_epoch=Epoch(classification["start_epoch"]),
        is_queued=is_queued,
    )


def build_subnet_arguments(registration: SubnetRegistration) -> dict[str, object]:
    """Return register_subnet's arguments by name. Raises ConfigError for a bad bootnode."""
    data = {
        "name": registration.name.encode(),
        "repo": registration.repo.encode(),
        "description": registration.description.encode(),
        "misc": registration.misc.encode(),
        "min_stake": registration.min_stake,
        "max_stake": registration.max_stake,
        "delegate_stake_percentage": registration.delegate_stake_percentage,
        "initial_coldkeys": [
            (hex_account(account_id), count)
            for account_id, count in sorted(registration.initial_coldkeys.items())
        ],
        "bootnodes": sorted(
            _build_bootnode(text, multiaddr) for text, multiaddr in registration.bootnodes.items()
        ),
    }
    return {"max_cost": registration.max_cost, "subnet_data": data}


def build_bootnode_arguments(
    *, add: Mapping[str, str], remove: Sequence[PeerId]
) -> dict[str, object]:
    """Return update_bootnodes' arguments by name but the subnet. Raises ConfigError."""
    return {
        "add": sorted(_build_bootnode(text, multiaddr) for text, multiaddr in add.items()),
        "remove": sorted(peer.to_base58().encode("ascii") for peer in remove),
    }


def build_node_arguments(registration: NodeRegistration) -> dict[str, object]:
    """Return register_subnet_node's arguments by name. Raises ConfigError for a bad address."""
    if registration.bootnode_multiaddr is not None and registration.bootnode_peer_id is None:
        raise ConfigError("a bootnode address needs a bootnode peer id", "give both or neither")
    return {
        "subnet_id": registration.subnet_id,
        "hotkey": hex_account(registration.hotkey),
        "peer_info": build_peer_info(registration.peer_id, registration.multiaddr),
        "bootnode_peer_info": build_peer_info(
            registration.bootnode_peer_id, registration.bootnode_multiaddr
        ),
        "client_peer_info": build_peer_info(registration.client_peer_id, None),
        "delegate_reward_rate": registration.delegate_reward_rate,
        "stake_to_be_added": registration.stake,
        "unique": registration.unique,
        "non_unique": registration.non_unique,
        "delegate_account": None,
        "max_burn_amount": registration.max_burn,
    }


def build_peer_info(peer_id: PeerId | None, multiaddr: str | None) -> dict[str, object] | None:
    """Return a PeerInfo; the chain wants the peer id's text and the address's binary form."""
    if peer_id is None:
        return None
    return {
        "peer_id": peer_id.to_base58().encode("ascii"),
        "multiaddr": None if multiaddr is None else encode_multiaddr(multiaddr, peer_id=peer_id),
    }


def _build_bootnode(text: str, multiaddr: str) -> tuple[bytes, bytes]:
    try:
        peer_id = PeerId.from_base58(text)
    except BadPeerId as error:
        raise ConfigError(
            f"{text!r} is not a peer id: {error}", "give the bootnode as 12D3KooW...=/ip4/..."
        ) from error
    return text.encode("ascii"), encode_multiaddr(multiaddr, peer_id=peer_id)
