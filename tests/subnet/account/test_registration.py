"""Registration and both ways of activation: by hand inside the window, and from the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from consensus.types import SubnetId, SubnetNodeId
from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from keys.account import AccountKey
from keys.peer import PeerKey
from subnet.account import registration
from subnet.account.money import is_hotkey_funded
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError, ExtrinsicFailed
from tests.support.chain_rigs import BOOTNODE, COLDKEYS, OWNER, make_node, make_seed, make_subnet

STRANGER = PeerKey(bytes([201]) * 32).peer_id


@asynccontextmanager
async def open_chain(mode: ActivationMode) -> AsyncIterator[tuple[DevChain, SubstrateChain]]:
    rules = LedgerConfig(activation_mode=mode, balances=fund_development_accounts())
    config = DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=mode.name.encode())
    async with DevChain.open(config) as devchain, SubstrateChain.open(devchain.url) as chain:
        yield devchain, chain


async def activate_three(chain: SubstrateChain, *, by_hand: bool) -> SubnetId:
    outcome = await registration.register_subnet(chain, make_subnet("mesh"), owner=OWNER)
    subnet_id = outcome.subnet_id
    for coldkey in COLDKEYS[:3]:
        wanted = make_node(subnet_id, AccountKey(make_seed()))
        node = await registration.register_node(chain, wanted, coldkey=coldkey)
        assert node.is_queued == by_hand
        if by_hand:
            await registration.activate_node(
                chain, subnet_id=subnet_id, node_id=node.node_id, coldkey=coldkey
            )
    assert (await registration.activate_subnet(chain, subnet_id=subnet_id, owner=OWNER)).is_active
    return subnet_id


async def test_a_late_node_is_activated_by_hand_inside_its_window_only() -> None:
    async with open_chain(ActivationMode.MANUAL) as (devchain, chain):
        subnet_id = await activate_three(chain, by_hand=True)
        rules = await registration.fetch_activation_rules(chain, subnet_id)
        assert (rules.is_automatic, rules.grace_epochs) == (False, 2)

        late = make_node(subnet_id, AccountKey(make_seed()))
        node = await registration.register_node(chain, late, coldkey=COLDKEYS[4])
        assert node.is_queued
        assert (
            await registration.find_node_by_peer_id(
                chain, subnet_id=subnet_id, peer_id=late.peer_id
            )
            == node.node_id
        )
        with pytest.raises(ExtrinsicFailed) as caught:
            await registration.activate_node(
                chain, subnet_id=subnet_id, node_id=node.node_id, coldkey=COLDKEYS[4]
            )
        assert caught.value.reason == "NotStartEpoch"
        with pytest.raises(ExtrinsicFailed) as caught:
            await registration.activate_node(
                chain, subnet_id=subnet_id, node_id=node.node_id, coldkey=COLDKEYS[5]
            )
        assert caught.value.reason in {"NotKeyOwner", "NotStartEpoch"}

        devchain.build(20)
        await registration.activate_node(
            chain, subnet_id=subnet_id, node_id=node.node_id, coldkey=COLDKEYS[4]
        )
        assert node.node_id in [row.node_id for row in await chain.fetch_nodes(subnet_id)]

        missed = make_node(subnet_id, AccountKey(make_seed()))
        node = await registration.register_node(chain, missed, coldkey=COLDKEYS[5])
        devchain.build(20 * 4)
        with pytest.raises(ExtrinsicFailed) as caught:
            await registration.activate_node(
                chain, subnet_id=subnet_id, node_id=node.node_id, coldkey=COLDKEYS[5]
            )
        assert caught.value.reason == "NotStartEpoch"


async def test_activation_by_hand_is_refused_unsent_where_it_is_automatic() -> None:
    async with open_chain(ActivationMode.AUTOMATIC) as (devchain, chain):
        subnet_id = await activate_three(chain, by_hand=False)
        assert (await registration.fetch_activation_rules(chain, subnet_id)).is_automatic
        height = devchain.chain.head.number
        with pytest.raises(ExtrinsicFailed) as caught:
            await registration.activate_node(
                chain, subnet_id=subnet_id, node_id=SubnetNodeId(1), coldkey=COLDKEYS[0]
            )
        assert caught.value.reason == "ActivationIsAutomatic"
        assert devchain.chain.head.number == height


async def test_subnets_and_nodes_are_found_by_every_name_they_have() -> None:
    async with open_chain(ActivationMode.AUTOMATIC) as (_, chain):
        subnet_id = await activate_three(chain, by_hand=False)
        for name in ("mesh", str(subnet_id), "1"):
            assert await registration.find_subnet(chain, name) == subnet_id
        first = await registration.fetch_registered_node(
            chain, subnet_id=subnet_id, node_id=SubnetNodeId(1)
        )
        assert first is not None and first.peer_id is not None
        assert await registration.find_subnet_of_peer(chain, first.peer_id) == (subnet_id,)
        assert await registration.find_subnet_of_peer(chain, STRANGER) == ()
        assert (
            await registration.find_node_by_peer_id(chain, subnet_id=subnet_id, peer_id=STRANGER)
            is None
        )
        known = await registration.fetch_registered_node(
            chain, subnet_id=subnet_id, node_id=first.node_id
        )
        assert known == first
        unknown = SubnetNodeId(99)
        assert (
            await registration.fetch_registered_node(chain, subnet_id=subnet_id, node_id=unknown)
            is None
        )
        assert not await is_hotkey_funded(chain, first.hotkey)
        assert await is_hotkey_funded(chain, OWNER.account_id)


@pytest.mark.parametrize(
    "bootnodes",
    [
        {"nonsense": "/ip4/127.0.0.1/tcp/1"},
        {str(BOOTNODE): "127.0.0.1:1"},
        {str(BOOTNODE): f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}"},
    ],
)
def test_a_malformed_bootnode_is_refused_before_the_chain_is_asked(
    bootnodes: dict[str, str],
) -> None:
    with pytest.raises(ConfigError):
        registration.build_subnet_arguments(make_subnet("mesh", bootnodes=bootnodes))


def test_a_bootnode_address_without_its_peer_id_is_refused() -> None:
    wanted = registration.NodeRegistration(
        subnet_id=SubnetId(1),
        hotkey=bytes(20),
        peer_id=STRANGER,
        bootnode_multiaddr="/ip4/127.0.0.1/tcp/1",
    )
    with pytest.raises(ConfigError, match="needs a bootnode peer id"):
        registration.build_node_arguments(wanted)


async def test_the_peer_id_of_another_node_is_refused_by_name() -> None:
    async with open_chain(ActivationMode.AUTOMATIC) as (_, chain):
        subnet_id = await activate_three(chain, by_hand=False)
        first = await registration.fetch_registered_node(
            chain, subnet_id=subnet_id, node_id=SubnetNodeId(1)
        )
        assert first is not None and first.peer_id is not None
        hotkey = AccountKey(make_seed())
        wanted = registration.NodeRegistration(subnet_id, hotkey.account_id, first.peer_id)
        with pytest.raises(ExtrinsicFailed) as caught:
            await registration.register_node(chain, wanted, coldkey=COLDKEYS[4])
        assert caught.value.reason == "PeerIdExist"
