"""The simulated endpoint answers for a block as the state stood when that block ended."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from consensus.attestation import is_agreed
from consensus.types import BlockNumber, Epoch, Score, SubnetNodeId
from subnet.errors import ChainUnavailable, ExtrinsicFailed
from subnet.simulation.chain import SUBNET_ID, SimChain, SimEndpoint
from subnet.simulation.node import make_account
from subnet.simulation.trace import RunTrace
from subnet.simulation.virtual_time import run_virtual
from subnet.simulation.windows import EPOCH_LENGTH

ROWS = [(SubnetNodeId(1), Score(5))]


def test_an_endpoint_reads_a_submission_as_it_was_at_every_block() -> None:
    run_virtual(propose_and_attest())


async def propose_and_attest() -> None:
    random = Random(7)
    accounts = [make_account(SubnetNodeId(node_id)) for node_id in (1, 2, 3)]
    chain = SimChain(accounts, seed=b"seed", trace=RunTrace())
    endpoints = {
        SubnetNodeId(node_id): SimEndpoint(chain, hotkey=account.hotkey, random=random)
        for node_id, account in enumerate(accounts, start=1)
    }

    async def produce() -> int:
        # Extrinsics and news of heads are under way for a fraction of a block.
        await asyncio.sleep(1)
        number = chain.produce(random).number
        await asyncio.sleep(1)
        return number

    epoch = Epoch(1)
    while chain.read_elected(epoch) is None:
        await produce()
    elected = chain.read_elected(epoch)
    assert elected is not None
    (attestor, *_) = [node_id for node_id in endpoints if node_id != elected]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(endpoints[elected].propose(SUBNET_ID, ROWS, b"args"))
        proposed = await produce()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(endpoints[attestor].attest(SUBNET_ID))
        attested = await produce()

    reader = endpoints[elected]

    async def fetch(number: int) -> frozenset[SubnetNodeId] | None:
        submission = await reader.fetch_submission(SUBNET_ID, epoch, at_block=BlockNumber(number))
        return None if submission is None else submission.attested

    assert await fetch(proposed - 1) is None
    assert await fetch(proposed) == frozenset({elected})
    assert await fetch(attested) == frozenset({elected, attestor})
    with pytest.raises(ChainUnavailable):
        await fetch(attested + EPOCH_LENGTH)
    submission = await reader.fetch_submission(SUBNET_ID, epoch)
    assert submission is not None and submission.args == b"args"
    least = await reader.fetch_min_attestation_percent(at_block=BlockNumber(attested))
    assert is_agreed(submission, min_attestation=least)


def test_an_extrinsic_that_a_stale_endpoint_signed_lands_in_no_later_epoch() -> None:
    run_virtual(attest_at_a_stale_head())


async def attest_at_a_stale_head() -> None:
    random = Random(7)
    accounts = [make_account(SubnetNodeId(node_id)) for node_id in (1, 2, 3)]
    chain = SimChain(accounts, seed=b"seed", trace=RunTrace())
    endpoint = SimEndpoint(chain, hotkey=accounts[0].hotkey, random=random)
    endpoint.faults.is_down = True
    for _ in range(2 * EPOCH_LENGTH):
        chain.produce(random)
    endpoint.faults.is_down = False
    asyncio.get_running_loop().call_later(1, chain.produce, random)
    with pytest.raises(ExtrinsicFailed, match="AncientBirthBlock"):
        await endpoint.attest(SUBNET_ID)
