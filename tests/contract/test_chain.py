"""One suite for every chain: the pure ledger, the development chain, the real runtime."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from consensus.roster import RosterNode
from consensus.types import SCORE_ONE, BlockNumber, Epoch, NodeClass, Score, SubnetId, SubnetNodeId
from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.ledger import Ledger
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from keys.account import AccountKey
from subnet.account.registration import TENSOR
from subnet.chain.extrinsic_journal import ExtrinsicJournal, State, settle
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ExtrinsicFailed
from tests.support.chain_rigs import (
    COLDKEYS,
    HOTKEY_FUNDS,
    OWNER,
    Chain,
    LedgerRig,
    Rig,
    WireRig,
    make_node,
    make_seed,
    make_subnet,
    read_head,
    wait_for_election,
)
from tests.support.chopsticks import REAL_RUNTIME_MARKS
from tests.support.ledger_chain import LedgerBlocks

SEED = b"contract"
UNKNOWN_NODE = SubnetNodeId(99)
UNKNOWN_SUBNET = SubnetId(4_000_000)


@pytest.fixture(
    params=["ledger", "devchain", pytest.param("real runtime", marks=REAL_RUNTIME_MARKS)],
)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    rules = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    if request.param == "real runtime":
        async with WireRig.connect(request.getfixturevalue("real_runtime")) as real:
            yield real
    elif request.param == "devchain":
        async with DevChain.open(
            DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=SEED)
        ) as devchain:
            async with WireRig.connect(devchain.url) as wire:
                yield wire
    else:
        yield LedgerRig(LedgerBlocks(Ledger(rules)))


@dataclass(frozen=True)
class ActiveSubnet:
    """A subnet of four nodes whose first validator is elected."""

    subnet_id: SubnetId
    hotkeys: dict[SubnetNodeId, AccountKey]
    epoch: Epoch
    elected: SubnetNodeId

    @property
    def others(self) -> tuple[SubnetNodeId, ...]:
        return tuple(sorted(set(self.hotkeys) - {self.elected}))


@pytest.fixture
async def chain(rig: Rig) -> AsyncIterator[Chain]:
    async with rig.open() as opened:
        yield opened


async def register_four(rig: Rig, name: str) -> tuple[SubnetId, dict[SubnetNodeId, AccountKey]]:
    subnet_id = await rig.register_subnet(make_subnet(name), OWNER)
    hotkeys = {}
    for coldkey in COLDKEYS[:4]:
        hotkey = AccountKey(make_seed())
        await rig.fund(hotkey.account_id, HOTKEY_FUNDS)
        hotkeys[await rig.register_node(make_node(subnet_id, hotkey), coldkey)] = hotkey
    return subnet_id, hotkeys


@pytest.fixture
async def active(rig: Rig, chain: Chain, request: pytest.FixtureRequest) -> ActiveSubnet:
    subnet_id, hotkeys = await register_four(rig, request.node.name)
    await rig.activate_subnet(subnet_id, OWNER)
    epoch, elected = await wait_for_election(rig, chain, subnet_id)
    return ActiveSubnet(subnet_id, hotkeys, epoch, elected)


async def propose(
    rig: Rig, active: ActiveSubnet, signer: SubnetNodeId, scores: list[tuple[int, int]]
) -> BlockNumber:
    rows = [(SubnetNodeId(node_id), Score(score)) for node_id, score in scores]
    async with rig.open(active.hotkeys[signer]) as writer:
        return (await writer.propose(active.subnet_id, rows, b"0xargs\xff")).block_number


async def attest(rig: Rig, active: ActiveSubnet, signer: AccountKey) -> None:
    async with rig.open(signer) as writer:
        await writer.attest(active.subnet_id)


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


async def test_a_client_killed_between_submit_and_inclusion_attests_once(
    rig: Rig, chain: Chain, active: ActiveSubnet, tmp_path: Path
) -> None:
    if not isinstance(rig, WireRig):
        pytest.skip("the ledger has no pool")
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
            assert [entry.state for entry in journal.list_entries(*State)] == [State.SIGNED]
            async with SubstrateChain.open(rig.url, log=journal) as restarted:
                await settle(restarted, journal)
                # What the block holds is neither sent again nor taken for lost.
                assert await rig.count_waiting() == 0
            (entry,) = journal.list_entries(*State)
            assert entry.state in {State.INCLUDED, State.FINALISED}
    with pytest.raises(ExtrinsicFailed, match="AlreadyAttested"):
        await attest(rig, active, hotkey)


async def wait_for_pool(rig: WireRig) -> None:
    async with asyncio.timeout(60):
        while True:
            if await rig.count_waiting():
                return
            await asyncio.sleep(0.05)
