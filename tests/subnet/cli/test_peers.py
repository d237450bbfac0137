"""Clients find peers by themselves: the chain names a subnet's, and others are passed over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from consensus.types import SubnetId
from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.account import derive_development_account
from keys.peer import PeerKey
from subnet.chain.substrate import SubstrateChain
from subnet.cli.peers import FoundPeers, find_peers
from subnet.errors import UnknownSubnet
from subnet.network import fetch_subnet_on_chain
from tests.subnet.cli.test_mesh import run
from tests.support.real_swarm import open_real_swarm

NOBODY = PeerKey(bytes([9]) * 32).peer_id
NOWHERE = f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}"
OWNER = ("--dev-account", "alith")


@pytest.fixture
async def chain() -> AsyncIterator[str]:
    """The address of a development chain with the subnet ``mesh``, whose bootnode is away."""
    config = DevChainConfig(mode=BlockMode.INSTANT, seed=b"clients find peers")
    async with DevChain.open(config) as running:
        line = ["chain", "register-subnet", "--name", "mesh", "--repo", "example.org/mesh"]
        for index in range(3):
            line += ["--initial-coldkey", f"{derive_development_account(index).address}=1"]
        line += ["--bootnode", f"{NOBODY}=/ip4/127.0.0.1/tcp/1", "--manifest-hash", "00" * 32]
        code, _, err = await type_line(*line, *OWNER, "--chain", running.url)
        assert code == 0, err
        yield running.url


async def type_line(*line: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(run, *line)


async def read_network_id(url: str) -> bytes:
    async with SubstrateChain.open(url) as chain:
        return (await fetch_subnet_on_chain(chain, SubnetId(128001))).terms.network_id


async def add_bootnode(url: str, address: str) -> None:
    """Register the address of a peer that runs."""
    place, _, peer = address.partition("/p2p/")
    line = ["chain", "bootnodes", "--subnet", "mesh", "--add", f"{peer}={place}"]
    code, _, err = await type_line(*line, *OWNER, "--chain", url)
    assert code == 0, err


async def test_the_chain_names_addresses_and_network_of_a_subnet(chain: str) -> None:
    expected = FoundPeers((NOWHERE,), await read_network_id(chain))
    for name in ("mesh", "128001", "1"):
        found = await asyncio.to_thread(find_peers, None, subnet=name, chain=chain)
        assert found == expected
    with pytest.raises(UnknownSubnet, match="no subnet 'other'"):
        await asyncio.to_thread(find_peers, [], subnet="other", chain=chain)


def test_who_is_named_is_dialled_without_a_chain() -> None:
    found = find_peers([NOWHERE], subnet="mesh", chain="ws://127.0.0.1:1")
    assert found == FoundPeers((NOWHERE,), None)


@pytest.mark.parametrize("line", [["generate", "hi"], ["serve", "--no-metrics"]])
def test_without_a_peer_and_without_a_subnet_it_says_what_to_give(line: list[str]) -> None:
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert "give --initial-peers ADDR, or --subnet NAME and --chain URL" in err


def test_of_many_addresses_some_are_said() -> None:
    assert FoundPeers(("a",)).describe() == "a"
    assert FoundPeers(("a", "b", "c", "d")).describe() == "a or b or 2 more"


async def test_generate_and_plan_find_the_swarm_by_the_name_of_its_subnet(chain: str) -> None:
    """The registered bootnode that is away does not matter."""
    network_id = await read_network_id(chain)
    where = ["--subnet", "mesh", "--chain", chain, "--json"]
    async with open_real_swarm([(0, 4), (4, 8)], network_id=network_id) as (address, _):
        await add_bootnode(chain, address)
        code, out, err = await type_line("generate", "hi", "--max-new-tokens", "4", *where)
        assert code == 0, err
        answer = json.loads(out)
        assert answer["token_ids"] and [hop["blocks"] for hop in answer["route"]] == [
            [0, 4],
            [4, 8],
        ]
        line = ["plan", "mesh-tiny", "--bandwidth", "10", "--num-blocks", "4", *where]
        code, out, err = await type_line(*line)
        assert code == 0, err
        assert json.loads(out)["uncovered_blocks"] == []


async def test_a_registered_peer_of_another_network_is_passed_over(chain: str) -> None:
    """A stranger may register any address; without the check it could answer for the subnet."""
    async with open_real_swarm([(0, 8)]) as (address, _):
        await add_bootnode(chain, address)
        code, out, err = await type_line("generate", "hi", "--subnet", "mesh", "--chain", chain)
    assert (code, out) == (1, "")
    assert "of another network than the chain's subnet" in err
