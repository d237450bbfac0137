"""What an epoch paid is read from the chain's events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from consensus.types import SCORE_ONE, Epoch, Score, SubnetId, SubnetNodeId
from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from keys.account import AccountKey
from subnet.account.earnings import fetch_earnings, parse_row, render_row
from subnet.account.receipt_check import ask_chain_alone, fetch_settlement
from subnet.account.registration import TENSOR, delegate_stake
from subnet.account.rewards import (
    ATTESTED_IN_VAIN,
    ELECTED_AND_AWAY,
    NOT_AGREED,
    fetch_rewards,
)
from subnet.account.standing import check_eligibility, describe_next_class, fetch_standing
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError
from subnet.receipts.describe import describe_chain_row
from tests.support.chain_rigs import (
    OWNER,
    WireRig,
    register_four,
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


async def agree(
    rig: WireRig,
    chain: SubstrateChain,
    subnet_id: SubnetId,
    hotkeys: dict[SubnetNodeId, AccountKey],
    rows: list[tuple[SubnetNodeId, Score]],
) -> Epoch:
    """Propose the rows in the next epoch, let everybody attest them; return the epoch."""
    epoch, elected = await wait_for_election(rig, chain, subnet_id)
    async with rig.open(hotkeys[elected]) as writer:
        await writer.propose(subnet_id, rows, None)
    for node_id in sorted(set(hotkeys) - {elected}):
        async with rig.open(hotkeys[node_id]) as writer:
            await writer.attest(subnet_id)
    return epoch


async def check_rows_equal_the_chain(
    chain: SubstrateChain,
    rig: WireRig,
    subnet_id: SubnetId,
    hotkeys: dict[SubnetNodeId, AccountKey],
    proposed: Epoch,
) -> None:
    """Every node's row accounts for its stake to the last unit, and the newest for its balance."""
    for node_id, hotkey in hotkeys.items():
        (row,) = (await fetch_earnings(chain, subnet_id, node_id, count=1)).rows
        assert row.epoch == proposed - 1
        assert row.difference == 0 and row.stake is not None
        assert row.stake.after == await rig.read_stake(subnet_id, hotkey.account_id)
        assert row.stake.after - row.stake.before == row.gain
        assert parse_row(json.loads(json.dumps(render_row(row)))) == row
    elections = [
        (await fetch_earnings(chain, subnet_id, node_id, count=1)).rows[0].proposing
        for node_id in hotkeys
    ]
    assert sum(proposing is not None for proposing in elections) == 1


async def test_an_epoch_that_pays_nobody_says_why_and_how_to_mend_it() -> None:
    rules = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    config = DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=b"no delegated stake")
    async with (
        DevChain.open(config) as devchain,
        SubstrateChain.open(devchain.url) as chain,
        WireRig.connect(devchain.url) as rig,
    ):
        subnet_id, hotkeys = await register_four(rig, "undelegated")
        await rig.activate_subnet(subnet_id, OWNER)
        first, *others = sorted(hotkeys)
        rows = [(first, Score(0)), *((node_id, Score(SCORE_ONE)) for node_id in others)]
        epoch = await agree(rig, chain, subnet_id, hotkeys, rows)
        await rig.advance(20)
        unpaid = await fetch_rewards(chain, subnet_id, epoch)
        assert unpaid.is_agreed and not unpaid.nodes
        assert unpaid.shortfall is not None
        assert "no stake was delegated on this chain" in unpaid.shortfall.reason
        assert f"mesh chain delegate --subnet {subnet_id}" in unpaid.shortfall.fix
        assert set(unpaid.unpaid) == set(hotkeys)

        await delegate_stake(chain, subnet_id=subnet_id, amount=50 * TENSOR, key=OWNER)
        await rig.advance(20)
        epoch = await agree(rig, chain, subnet_id, hotkeys, rows)
        await rig.advance(20)
        paid = await fetch_rewards(chain, subnet_id, epoch)
        assert paid.shortfall is None
        assert set(paid.nodes) == set(others)
        assert paid.unpaid == {first: "its score is 0"}
        zero = await fetch_settlement(chain, subnet_id, epoch, first, None)
        assert (zero.paid, zero.unpaid, zero.shortfall) == (0, "its score is 0", None)
        full = await fetch_settlement(chain, subnet_id, epoch, others[0], None)
        assert (full.paid, full.unpaid) == (paid.nodes[others[0]], None)

        await rig.advance(20)
        silent = await fetch_rewards(chain, subnet_id)
        assert silent.shortfall is not None
        assert "nothing was proposed" in silent.shortfall.reason
        assert silent.elected is not None and set(silent.steps) == {silent.elected}
        found = await fetch_earnings(chain, subnet_id, silent.elected, count=8)
        assert [step.cause for step in found.rows[0].reputation] == [ELECTED_AND_AWAY]
        assert found.rows[0].proposing == 0
        assert [row.difference for row in found.rows] == [0] * len(found.rows)
        with pytest.raises(ConfigError, match="are not settled"):
            await fetch_earnings(chain, subnet_id, first, count=1, last=Epoch(epoch + 50))
        with pytest.raises(ConfigError, match="has no node 99"):
            await fetch_standing(chain, subnet_id, SubnetNodeId(99))
        standing = await fetch_standing(chain, subnet_id, silent.elected)
        assert check_eligibility(standing).reason is None
        assert describe_next_class(standing).startswith("Validator since epoch")


async def test_an_attested_epoch_pays_its_nodes_and_an_unattested_one_slashes(url: str) -> None:
    async with SubstrateChain.open(url) as chain, WireRig.connect(url) as rig:
        subnet_id, hotkeys = await register_four(rig, "paid")
        # Time that passes before the activation settles nothing.
        await rig.advance(45)
        with pytest.raises(ConfigError, match=r"no epoch of subnet \d+ is settled yet"):
            await fetch_rewards(chain, subnet_id)
        await rig.activate_subnet(subnet_id, OWNER)
        await delegate_stake(chain, subnet_id=subnet_id, amount=50 * TENSOR, key=OWNER)

        rows = [(node_id, Score(SCORE_ONE)) for node_id in sorted(hotkeys)]
        epoch = await agree(rig, chain, subnet_id, hotkeys, rows)
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
        assert (paid.unpaid, paid.shortfall) == ({}, None)
        assert paid.slashed == {}
        assert await fetch_rewards(chain, subnet_id) == paid
        await check_rows_equal_the_chain(chain, rig, subnet_id, hotkeys, epoch)

        later, elected = await wait_for_election(rig, chain, subnet_id)
        async with rig.open(hotkeys[elected]) as writer:
            await writer.propose(subnet_id, rows, None)
        await rig.advance(20)
        lost = await fetch_rewards(chain, subnet_id, later)
        assert not lost.is_agreed
        assert lost.shortfall is not None
        assert (
            "1 of 4 validators attested the proposal, and 66 % are needed" in lost.shortfall.reason
        )
        assert set(lost.slashed) == {hotkeys[elected].account_id}
        assert lost.reputations[elected][1] < lost.reputations[elected][0]
        hotkey = hotkeys[elected].account_id
        slashed = await fetch_settlement(chain, subnet_id, later, elected, hotkey)
        assert slashed.slashed == lost.slashed[hotkey] > 0
        assert slashed.reputation == lost.reputations[elected]
        assert slashed.shortfall is not None and "are needed; fix: " in slashed.shortfall
        assert [step.cause for step in lost.steps[elected]] == [NOT_AGREED, ATTESTED_IN_VAIN]
        await check_rows_equal_the_chain(chain, rig, subnet_id, hotkeys, later)
        row = await ask_chain_alone(chain, subnet_id, Epoch(later - 1), elected)
        assert row.submission is not None and row.submission.proposer == row.elected == elected
        assert row.answer.settlement == slashed
        text = describe_chain_row(row)
        assert f"node {elected}, epoch {later - 1}: the chain has 1.000000\n" in text
        assert "66 % are needed: not agreed\n" in text and "  slashed: " in text
