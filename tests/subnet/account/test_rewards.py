"""What an epoch paid is read from the chain's events."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from consensus.types import SCORE_ONE, Score
from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from keys.account import AccountKey
from subnet.account.registration import TENSOR, delegate_stake
from subnet.account.rewards import fetch_rewards
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError
from tests.support.chain_rigs import (
    COLDKEYS,
    HOTKEY_FUNDS,
    OWNER,
    WireRig,
    make_node,
    make_seed,
    make_subnet,
    wait_for_election,
)
from tests.support.chopsticks import REAL_RUNTIME_MARKS


@pytest.fixture(params=["devchain", pytest.param("real runtime", marks=REAL_RUNTIME_MARKS)])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "real runtime":
        yield request.getfixturevalue("real_runtime")
        return
    rules = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    config = DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=b"rewards")
    async with DevChain.open(config) as devchain:
        yield devchain.url


async def test_an_attested_epoch_pays_its_nodes_and_an_unattested_one_slashes(url: str) -> None:
    async with SubstrateChain.open(url) as chain, WireRig.connect(url) as rig:
        subnet_id = await rig.register_subnet(make_subnet("paid"), OWNER)
        hotkeys = {}
        for coldkey in COLDKEYS[:4]:
            hotkey = AccountKey(make_seed())
            await rig.fund(hotkey.account_id, HOTKEY_FUNDS)
            hotkeys[await rig.register_node(make_node(subnet_id, hotkey), coldkey)] = hotkey
        # Time that passes before the activation settles nothing.
        await rig.advance(45)
        with pytest.raises(ConfigError, match=r"no epoch of subnet \d+ is settled yet"):
            await fetch_rewards(chain, subnet_id)
        await rig.activate_subnet(subnet_id, OWNER)
        await delegate_stake(chain, subnet_id=subnet_id, amount=50 * TENSOR, key=OWNER)

        epoch, elected = await wait_for_election(rig, chain, subnet_id)
        async with rig.open(hotkeys[elected]) as writer:
            rows = [(node_id, Score(SCORE_ONE)) for node_id in sorted(hotkeys)]
            await writer.propose(subnet_id, rows, None)
        for node_id in sorted(set(hotkeys) - {elected}):
            async with rig.open(hotkeys[node_id]) as writer:
                await writer.attest(subnet_id)
        with pytest.raises(ConfigError, match="not settled yet"):
            await fetch_rewards(chain, subnet_id, epoch)

        await rig.advance(20)
        paid = await fetch_rewards(chain, subnet_id, epoch)
        assert paid.is_agreed
        assert set(paid.nodes) == set(hotkeys)
        # Equal scores pay equally, but for the block or two by which attestations differ.
        least, most = min(paid.nodes.values()), max(paid.nodes.values())
        assert 0 < least <= most < least + least // 10**6
        assert paid.delegators > 0
        assert paid.slashed == {}
        assert await fetch_rewards(chain, subnet_id) == paid

        later, elected = await wait_for_election(rig, chain, subnet_id)
        async with rig.open(hotkeys[elected]) as writer:
            await writer.propose(subnet_id, rows, None)
        await rig.advance(20)
        lost = await fetch_rewards(chain, subnet_id, later)
        assert not lost.is_agreed
        assert set(lost.slashed) == {hotkeys[elected].account_id}
        assert lost.reputations[elected][1] < lost.reputations[elected][0]
