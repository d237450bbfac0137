"""A node that leaves brings home what it staked, and what it earned until then."""

from __future__ import annotations

import asyncio

import pytest

from consensus.types import SCORE_ONE, Score
from subnet.account.leaving import LeavingNode, leave
from subnet.account.registration import TENSOR, delegate_stake
from subnet.chain.substrate import SubstrateChain
from tests.subnet.account.test_rewards import agree, url
from tests.support.chain_rigs import COLDKEYS, OWNER, WireRig, register_four

__all__ = ["url"]
WAIT_S = 300.0


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["once", "again at every line"])
async def test_the_pay_of_the_running_epoch_is_awaited_before_the_stake_is_unbonded(
    url: str, is_interrupted: bool
) -> None:
    """The chain pays the nodes of the proposal's snapshot, also those that are removed by then.

    It forgets a hotkey without stake: what comes to it after that has no owner. A command that dies
    at any of its lines and is run again does nothing twice.
    """
    async with SubstrateChain.open(url) as chain, WireRig.connect(url) as rig:
        name = "leaving-again" if is_interrupted else "leaving"
        subnet_id, hotkeys = await register_four(rig, name)
        await rig.activate_subnet(subnet_id, OWNER)
        await delegate_stake(chain, subnet_id=subnet_id, amount=50 * TENSOR, key=OWNER)
        rows = [(node_id, Score(SCORE_ONE)) for node_id in sorted(hotkeys)]
        epoch = await agree(rig, chain, subnet_id, hotkeys, rows)
        elected = await chain.fetch_elected_validator(subnet_id, epoch)
        place, node_id = next(
            (place, node_id) for place, node_id in enumerate(sorted(hotkeys)) if node_id != elected
        )
        hotkey = hotkeys[node_id].account_id
        staked = await rig.read_stake(subnet_id, hotkey)
        said: list[str] = []
        coldkey = COLDKEYS[place]
        before = await chain.fetch_balance(coldkey.account_id)
        leaver = LeavingNode(subnet_id, hotkey, coldkey)
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(leave(chain, leaver, say=said.append))
            heard = 0
            while not leaving.done():
                await rig.advance(1)
                await asyncio.sleep(0.02)
                if is_interrupted and len(said) > heard and not leaving.done():
                    heard = len(said)
                    leaving.cancel()
                    await asyncio.wait([leaving])
                    leaving = tasks.create_task(leave(chain, leaver, say=said.append))
        assert leaving.result() == ()
        assert await rig.read_stake(subnet_id, hotkey) == 0
        assert said.count("unbonding its stake") == 1 or is_interrupted
        # Blocks go on while the command dies: the epoch may be over when it says so.
        waits = f"waiting for the end of epoch {epoch}: its pay goes to the stake"
        assert waits in said or is_interrupted
        # What it had and what the epoch paid it, without a rest of which the chain knows no owner.
        assert await chain.fetch_balance(coldkey.account_id) - before > staked
