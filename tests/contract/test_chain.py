"""One suite for every chain: the pure ledger, the development chain, the real runtime."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from consensus.attestation import check_queue_arguments, compute_attestation_ratio
from consensus.errors import ProposalMismatch
from consensus.roster import RosterNode
from consensus.types import SCORE_ONE, BlockNumber, Epoch, NodeClass, Score, SubnetId, SubnetNodeId
from keys.account import AccountKey
from subnet.account.registration import TENSOR
from subnet.chain.extrinsic_journal import ExtrinsicJournal, ExtrinsicState, settle
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ChainUnavailable, ExtrinsicFailed
from tests.support.chain_rigs import (
    COLDKEYS,
    OWNER,
    ActiveSubnet,
    Chain,
    Rig,
    WireRig,
    attest,
    make_node,
    make_seed,
    make_subnet,
    propose,
    read_head,
    register_four,
    wait_for_election,
)
from tests.support.chopsticks import REAL_RUNTIME_MARKS

UNKNOWN_NODE = SubnetNodeId(99)
UNKNOWN_SUBNET = SubnetId(4_000_000)
EPOCH_LENGTH = 20
QUEUE_IMMUNITY_EPOCHS = 3


async def test_the_present_head_comes_first_and_then_every_later_one(
    rig: Rig, chain: Chain
) -> None:
    await rig.advance(1)
    seen = []
    async for head in chain.heads():
        seen.append(head)
        assert await chain.fetch_block(head.number) == head
        if len(seen) == 3:
            break
        await rig.advance(1)
    numbers = [head.number for head in seen]
    assert numbers == sorted(set(numbers))
    assert seen[-1].timestamp_s >= seen[0].timestamp_s


async def test_finality_is_not_ahead_of_the_head(rig: Rig, chain: Chain) -> None:
    await rig.advance(4)
    finalised = await chain.fetch_finalised_number()
    assert 0 < finalised <= await read_head(chain)


async def test_the_chain_says_what_it_is(chain: Chain) -> None:
    info = await chain.fetch_info()
    assert len(info.genesis_hash) == 32
    assert info.epoch_length == 20


async def test_what_is_not_there_is_none(chain: Chain) -> None:
    assert await chain.fetch_subnet(UNKNOWN_SUBNET) is None
    assert await chain.fetch_nodes(UNKNOWN_SUBNET) == ()
    assert await chain.fetch_elected_validator(UNKNOWN_SUBNET, Epoch(0)) is None
    assert await chain.fetch_submission(UNKNOWN_SUBNET, Epoch(0)) is None


async def test_a_registered_subnet_is_read_as_it_was_at_every_block(
    rig: Rig, chain: Chain, request: pytest.FixtureRequest
) -> None:
    before = await read_head(chain)
    subnet_id, hotkeys = await register_four(rig, request.node.name)
    subnet = await chain.fetch_subnet(subnet_id)
    assert subnet is not None
    assert (subnet.name, subnet.is_active) == (request.node.name, False)
    assert subnet.misc == "mesh-manifest:" + "ab" * 32
    assert subnet.start_epoch == 2**32 - 1
    assert await chain.fetch_subnet(subnet_id, at_block=before) is None

    nodes = await chain.fetch_nodes(subnet_id)
    assert [node.node_id for node in nodes] == sorted(hotkeys)
    assert [node.coldkey for node in nodes] == [key.account_id for key in COLDKEYS[:4]]
    assert all(node.hotkey == hotkeys[node.node_id].account_id for node in nodes)
    assert all(node.node_class is NodeClass.VALIDATOR for node in nodes)
    assert len({node.peer_id for node in nodes} - {None}) == 4
    assert await chain.fetch_nodes(subnet_id, at_block=before) == ()

    await rig.activate_subnet(subnet_id, OWNER)
    after = await chain.fetch_subnet(subnet_id)
    assert after is not None and after.is_active
    assert after.start_epoch < 2**32 - 1


async def test_a_node_that_joins_an_active_subnet_is_in_no_roster_at_first(
    rig: Rig, chain: Chain, active: ActiveSubnet
) -> None:
    late = AccountKey(make_seed())
    node_id = await rig.register_node(make_node(active.subnet_id, late), COLDKEYS[4])
    assert node_id == max(active.hotkeys) + 1
    roster: tuple[RosterNode, ...] = await chain.fetch_nodes(active.subnet_id)
    assert [node.node_id for node in roster] == sorted(active.hotkeys)


async def test_an_epoch_is_proposed_and_attested(
    rig: Rig, chain: Chain, active: ActiveSubnet
) -> None:
    assert active.elected in active.hotkeys
    assert await chain.fetch_submission(active.subnet_id, active.epoch) is None
    scores = [(node_id, SCORE_ONE - node_id) for node_id in sorted(active.hotkeys)]
    block = await propose(rig, active, active.elected, scores)

    submission = await chain.fetch_submission(active.subnet_id, active.epoch)
    assert submission is not None
    assert (submission.proposer, submission.block) == (active.elected, block)
    assert list(submission.scores) == scores
    assert submission.args == b"0xargs\xff"
    assert submission.attested == {active.elected}

    for node_id in active.others:
        await attest(rig, active, active.hotkeys[node_id])
    submission = await chain.fetch_submission(active.subnet_id, active.epoch)
    assert submission is not None
    assert submission.attested == set(active.hotkeys)


async def test_unknown_ids_and_adjacent_doubles_are_left_out_of_a_proposal(
    rig: Rig, chain: Chain, active: ActiveSubnet
) -> None:
    scores = [(1, 5), (1, 5), (2, 6), (UNKNOWN_NODE, 7), (1, 8)]
    await propose(rig, active, active.elected, scores)
    submission = await chain.fetch_submission(active.subnet_id, active.epoch)
    assert submission is not None
    assert list(submission.scores) == [(1, 5), (2, 6), (1, 8)]


async def test_an_empty_proposal_is_kept(rig: Rig, chain: Chain, active: ActiveSubnet) -> None:
    await propose(rig, active, active.elected, [])
    submission = await chain.fetch_submission(active.subnet_id, active.epoch)
    assert submission is not None and submission.scores == ()


async def test_a_submission_is_read_as_it_was_at_every_block(
    rig: Rig, chain: Chain, active: ActiveSubnet
) -> None:
    block = await propose(rig, active, active.elected, [(1, 5)])
    async with rig.open(active.hotkeys[active.others[0]]) as writer:
        attested = (await writer.attest(active.subnet_id)).block_number
    await rig.advance(1)

    async def fetch(at_block: int) -> frozenset[SubnetNodeId] | None:
        submission = await chain.fetch_submission(
            active.subnet_id, active.epoch, at_block=BlockNumber(at_block)
        )
        return None if submission is None else submission.attested

    assert block < attested
    assert await fetch(block - 1) is None
    assert await fetch(block) == {active.elected}
    assert await fetch(attested - 1) == {active.elected}
    assert await fetch(attested) == {active.elected, active.others[0]}
    assert await fetch(await read_head(chain)) == {active.elected, active.others[0]}
    with pytest.raises(ChainUnavailable):
        await fetch(await read_head(chain) + 1000)


async def test_the_share_of_voters_that_must_attest_is_the_chains(
    rig: Rig, chain: Chain, active: ActiveSubnet
) -> None:
    head = await read_head(chain)
    assert await chain.fetch_min_attestation_percent() == 66 * 10**16
    assert await chain.fetch_min_attestation_percent(at_block=head) == 66 * 10**16
    await propose(rig, active, active.elected, [(1, 5)])
    submission = await chain.fetch_submission(active.subnet_id, active.epoch)
    assert submission is not None and submission.voters == set(active.hotkeys)
    assert compute_attestation_ratio(submission) == 25 * 10**16


async def test_longer_args_than_the_chain_keeps_are_not_sent(
    rig: Rig, active: ActiveSubnet
) -> None:
    with pytest.raises(ValueError, match="4096"):
        await propose(rig, active, active.elected, [(1, 5)], args=bytes(4097))


async def test_a_queued_node_that_a_proposal_names_is_read_with_it(
    rig: Rig, chain: Chain, active: ActiveSubnet
) -> None:
    late = AccountKey(make_seed())
    queued = await rig.register_node(make_node(active.subnet_id, late), COLDKEYS[4])
    epoch = await propose_naming(rig, chain, active, prioritize=queued, remove=UNKNOWN_NODE)
    submission = await chain.fetch_submission(active.subnet_id, epoch)
    assert submission is not None
    assert submission.prioritize_queue_node_id == queued
    # The chain keeps no id that is not in the queue, or has not waited there for some epochs.
    assert submission.remove_queue_node_id is None
    with pytest.raises(ProposalMismatch, match=f"prioritize_queue_node_id: .* node {queued}"):
        check_queue_arguments(submission)

    for _ in range(QUEUE_IMMUNITY_EPOCHS + 1):
        await rig.advance(EPOCH_LENGTH)
    epoch = await propose_naming(rig, chain, active, prioritize=None, remove=queued)
    submission = await chain.fetch_submission(active.subnet_id, epoch)
    assert submission is not None
    assert submission.prioritize_queue_node_id is None
    assert submission.remove_queue_node_id == queued
    with pytest.raises(ProposalMismatch, match=f"remove_queue_node_id: .* node {queued}"):
        check_queue_arguments(submission)


async def propose_naming(
    rig: Rig,
    chain: Chain,
    active: ActiveSubnet,
    *,
    prioritize: SubnetNodeId | None,
    remove: SubnetNodeId | None,
) -> Epoch:
    """Let the present epoch's validator propose one row and name queued nodes."""
    epoch, elected = await wait_for_election(rig, chain, active.subnet_id)
    await rig.propose_for_queue(
        active.subnet_id,
        [(SubnetNodeId(1), Score(5))],
        active.hotkeys[elected],
        prioritize=prioritize,
        remove=remove,
    )
    return epoch


async def test_wrong_calls_fail_with_the_pallets_own_names(rig: Rig, active: ActiveSubnet) -> None:
    other, third = active.others[0], active.others[1]

    async def fails(reason: str, doing: object) -> None:
        with pytest.raises(ExtrinsicFailed) as caught:
            await doing  # type: ignore[misc]
        assert caught.value.reason == reason

    await fails("InvalidValidator", propose(rig, active, other, [(1, 1)]))
    await fails("InvalidSubnetConsensusSubmission", attest(rig, active, active.hotkeys[other]))
    await propose(rig, active, active.elected, [(1, 1)])
    await fails("SubnetRewardsAlreadySubmitted", propose(rig, active, active.elected, [(1, 1)]))
    await fails("AlreadyAttested", attest(rig, active, active.hotkeys[active.elected]))
    await fails("InvalidHotkeySubnetNodeId", attest(rig, active, COLDKEYS[0]))
    await attest(rig, active, active.hotkeys[third])
    await fails("AlreadyAttested", attest(rig, active, active.hotkeys[third]))


async def test_registration_errors_have_the_pallets_own_names(
    rig: Rig, request: pytest.FixtureRequest
) -> None:
    async def fails(reason: str, doing: object) -> None:
        with pytest.raises(ExtrinsicFailed) as caught:
            await doing  # type: ignore[misc]
        assert caught.value.reason == reason

    name = request.node.name
    subnet_id = await rig.register_subnet(make_subnet(name), OWNER)
    await fails("SubnetNameExist", rig.register_subnet(make_subnet(name), OWNER))
    await fails(
        "BootnodesEmpty", rig.register_subnet(make_subnet(f"{name} 2", bootnodes={}), OWNER)
    )
    await fails(
        "InvalidSubnetMinStake",
        rig.register_subnet(make_subnet(f"{name} 3", min_stake=99 * TENSOR), OWNER),
    )
    await fails(
        "CostGreaterThanMaxCost", rig.register_subnet(make_subnet(name + "4", max_cost=1), OWNER)
    )
    await fails("SubnetActivationConditionsNotMetYet", rig.activate_subnet(subnet_id, OWNER))
    await fails("NotSubnetOwner", rig.activate_subnet(subnet_id, COLDKEYS[1]))

    hotkey = AccountKey(make_seed())
    node = make_node(subnet_id, hotkey)
    await fails("ColdkeyRegistrationWhitelist", rig.register_node(node, COLDKEYS[5]))
    await fails(
        "ColdkeyMatchesHotkey", rig.register_node(make_node(subnet_id, COLDKEYS[0]), COLDKEYS[0])
    )
    await rig.register_node(node, COLDKEYS[0])
    await fails("HotkeyHasOwner", rig.register_node(node, COLDKEYS[1]))


ATTESTER = """
import asyncio, sys
from pathlib import Path
from keys.account import AccountKey
from subnet.chain.extrinsic_journal import ExtrinsicJournal
from subnet.chain.substrate import SubstrateChain

async def main():
    url, path, subnet_id = sys.argv[1:]
    key = AccountKey(sys.stdin.buffer.read(32))
    with ExtrinsicJournal.open(Path(path)) as journal:
        async with SubstrateChain.open(url, signer=key, log=journal) as chain:
            await chain.attest(int(subnet_id))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "rig", ["devchain", pytest.param("real runtime", marks=REAL_RUNTIME_MARKS)], indirect=True
)
async def test_a_client_killed_between_submit_and_inclusion_attests_once(
    rig: Rig, chain: Chain, active: ActiveSubnet, tmp_path: Path
) -> None:
    assert isinstance(rig, WireRig)
    await propose(rig, active, active.elected, [(1, 1)])
    attester, path = active.others[0], tmp_path / "extrinsics.sqlite"
    hotkey = active.hotkeys[attester]
    async with rig.hold_blocks():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ATTESTER, rig.url, str(path), str(active.subnet_id)),
            stdin=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(hotkey.private_key())
        process.stdin.close()
        await wait_for_pool(rig)
        process.kill()
        await process.wait()
        await rig.advance(1)
        async with rig.open() as observer:
            submission = await observer.fetch_submission(active.subnet_id, active.epoch)
        assert submission is not None and submission.attested == {active.elected, attester}
        with ExtrinsicJournal.open(path) as journal:
            assert [entry.state for entry in journal.list_entries(*ExtrinsicState)] == [
                ExtrinsicState.SIGNED
            ]
            async with SubstrateChain.open(rig.url, log=journal) as restarted:
                await settle(restarted, journal)
                # What the block holds is neither sent again nor taken for lost.
                assert await rig.count_waiting() == 0
            (entry,) = journal.list_entries(*ExtrinsicState)
            assert entry.state in {ExtrinsicState.INCLUDED, ExtrinsicState.FINALISED}
    with pytest.raises(ExtrinsicFailed, match="AlreadyAttested"):
        await attest(rig, active, hotkey)


async def wait_for_pool(rig: WireRig) -> None:
    async with asyncio.timeout(60):
        while True:
            if await rig.count_waiting():
                return
            await asyncio.sleep(0.05)
