"""Elections, proposals, attestations, and what they pay: the numbers seen on the real runtime."""

from __future__ import annotations

import pytest

from devchain import storage
from devchain.calls import ActivateSubnet, AddToDelegateStake, Attest, ProposeAttestation
from devchain.chain_types import ONE, TENSOR, SubnetNodeConsensusData
from devchain.errors import DispatchError
from devchain.events import (
    Attestation,
    NodeReputationUpdate,
    Slashing,
    SubnetReputationUpdate,
    SubnetRewards,
    ValidatorSubmission,
)
from tests.support.ledger_world import FIRST_SUBNET, World, coldkey, hotkey

IDS = (1, 2, 3, 4)


@pytest.fixture
def world() -> World:
    """Four Validators in block 23, the first elected epoch's first block."""
    started = World()
    started.start()
    return started


def delegate(world: World, amount: int = 50 * TENSOR) -> None:
    """Delegate stake to the subnet, so that its weight is not 0/0."""
    world.apply(coldkey(7), AddToDelegateStake(FIRST_SUBNET, amount))


def others(world: World) -> list[int]:
    return [node_id for node_id in IDS if node_id != world.elected]


def test_the_first_election_is_at_the_slot_after_the_weights() -> None:
    world = World()
    world.start()
    assert world.ledger.block == 23
    assert world.elected in IDS
    assert world.state.find(storage.SUBNET_ELECTED_VALIDATOR, FIRST_SUBNET, 0) is None
    late = World()
    late.register_subnet()
    for index in range(4):
        late.register_node(index)
        late.activate_node(index)
    late.advance_to(23)
    late.apply(coldkey(0), ActivateSubnet(FIRST_SUBNET))
    late.advance_to(42)
    assert not list(late.state.items(storage.SUBNET_ELECTED_VALIDATOR))
    late.advance_to(43)
    assert late.elected in IDS


def test_elections_follow_the_parent_hash_and_reach_everybody(world: World) -> None:
    elected = set()
    for _ in range(40):
        world.advance(20)
        elected.add(world.elected)
    assert elected == set(IDS)
    again = World()
    again.start()
    again.advance(20 * 40)
    assert again.elected == world.elected


def test_a_proposal_attests_itself(world: World) -> None:
    elected = world.elected
    events = world.propose(IDS, args=b"args")
    assert events == [ValidatorSubmission(FIRST_SUBNET, hotkey(elected - 1), 1)]
    submission = world.state.get(storage.SUBNET_CONSENSUS_SUBMISSION, FIRST_SUBNET, 1)
    assert list(submission.attests) == [elected]
    assert submission.attests[elected].reward_factor == ONE
    assert [node.id for node in submission.subnet_nodes] == list(IDS)
    assert (submission.block, submission.args) == (23, b"args")


@pytest.mark.parametrize(
    ("offset", "factor"), [(0, 0.9999546), (1, 0.999877), (2, 0.999665), (10, 0.5)]
)
def test_an_early_proposal_earns_more(world: World, offset: int, factor: float) -> None:
    world.advance(offset)
    world.propose(IDS)
    submission = world.state.get(storage.SUBNET_CONSENSUS_SUBMISSION, FIRST_SUBNET, 1)
    assert submission.validator_epoch_progress == ONE * offset // 20
    assert submission.validator_reward_factor / ONE == pytest.approx(factor, abs=5e-7)


@pytest.mark.parametrize(
    ("proposed", "attested", "progress", "factor"),
    [(2, 6, 0.2222, 0.9999998), (10, 19, 0.9, 0.7664)],
)
def test_an_early_attestation_earns_more(
    world: World, proposed: int, attested: int, progress: float, factor: float
) -> None:
    world.advance(proposed)
    world.propose(IDS)
    world.advance(attested - proposed)
    node_id = others(world)[0]
    assert world.attest(node_id) == [Attestation(FIRST_SUBNET, node_id, 1)]
    entry = world.state.get(storage.SUBNET_CONSENSUS_SUBMISSION, FIRST_SUBNET, 1).attests[node_id]
    assert entry.attestor_progress / ONE == pytest.approx(progress, abs=5e-5)
    assert entry.reward_factor / ONE == pytest.approx(factor, abs=5e-5)


def test_proposals_are_refused_by_name(world: World) -> None:
    call = ProposeAttestation(FIRST_SUBNET, ())
    with pytest.raises(DispatchError, match="InvalidValidator"):
        world.apply(hotkey(others(world)[0] - 1), call)
    with pytest.raises(DispatchError, match="InvalidValidator"):
        world.apply(coldkey(world.elected - 1), call)
    with pytest.raises(DispatchError, match="SubnetEpochDataIsNone"):
        world.apply(hotkey(0), ProposeAttestation(7, ()))
    huge = tuple(SubnetNodeConsensusData(node_id, 2**127) for node_id in (1, 2))
    with pytest.raises(DispatchError, match="ScoreOverflow"):
        world.apply(hotkey(world.elected - 1), ProposeAttestation(FIRST_SUBNET, huge))
    world.propose(())
    with pytest.raises(DispatchError, match="SubnetRewardsAlreadySubmitted"):
        world.propose(())
    fresh = World()
    fresh.register_subnet()
    fresh.advance_to(4)
    with pytest.raises(DispatchError, match="NoElectedValidator"):
        fresh.apply(hotkey(0), ProposeAttestation(FIRST_SUBNET, ()))


def test_attestations_are_refused_by_name(world: World) -> None:
    with pytest.raises(DispatchError, match="InvalidSubnetConsensusSubmission"):
        world.attest(1)
    elected = world.elected
    world.propose(IDS)
    with pytest.raises(DispatchError, match="AlreadyAttested"):
        world.attest(elected)
    with pytest.raises(DispatchError, match="InvalidHotkeySubnetNodeId"):
        world.apply(coldkey(0), Attest(FIRST_SUBNET))
    world.register_node(4)
    with pytest.raises(DispatchError, match="InvalidSubnetNodeId"):
        world.attest(5)
    world.advance(20)
    world.propose(IDS)
    world.activate_node(4)
    with pytest.raises(DispatchError, match="InvalidSubnetNodeClassification"):
        world.attest(5)


def test_an_attestation_in_the_last_block_counts_and_in_the_next_fails(world: World) -> None:
    world.propose(IDS)
    world.advance(19)
    first, second = others(world)[:2]
    world.attest(first)
    world.advance(1)
    with pytest.raises(DispatchError, match="InvalidSubnetConsensusSubmission"):
        world.attest(second)


def test_unknown_queued_idle_and_adjacent_duplicate_rows_are_dropped(world: World) -> None:
    world.register_node(4)
    world.advance(20)
    world.activate_node(4)
    rows = ((1, 5), (1, 7), (2, 5), (1, 9), (5, 5), (99, 5))
    data = tuple(SubnetNodeConsensusData(node_id, score) for node_id, score in rows)
    world.apply(hotkey(world.elected - 1), ProposeAttestation(FIRST_SUBNET, data))
    kept = world.state.get(storage.SUBNET_CONSENSUS_SUBMISSION, FIRST_SUBNET, 2).data
    assert [(row.subnet_node_id, row.score) for row in kept] == [(1, 5), (2, 5), (1, 9)]


def test_without_delegated_stake_only_the_proposer_is_paid(world: World) -> None:
    elected = world.elected
    world.advance(2)
    world.propose(IDS)
    for node_id in others(world):
        world.attest(node_id)
    events = world.advance(18)
    assert events == [SubnetRewards(FIRST_SUBNET, (), 0, (), ())]
    assert (world.stake(elected) - 100 * TENSOR) / TENSOR == pytest.approx(0.999665, abs=1e-6)


def test_the_rewards_of_four_equal_nodes_are_those_of_the_real_runtime() -> None:
    world = World()
    world.register_subnet()
    for index in range(4):
        world.register_node(index)
        world.activate_node(index)
    world.apply(coldkey(0), ActivateSubnet(FIRST_SUBNET))
    world.advance_to(24)
    delegate(world)
    world.propose(IDS)
    elected = world.elected
    for node_id in others(world):
        world.attest(node_id)
    owner_before = world.state.get(storage.ACCOUNT, coldkey(0)).data.free
    rewards = world.advance_to(43)[-1]
    distribution = world.state.get(storage.FINAL_SUBNET_EMISSION_WEIGHTS, 2)
    assert distribution.validator_emissions == 302179536099033472
    assert distribution.weights == {FIRST_SUBNET: ONE}
    owner = world.state.get(storage.ACCOUNT, coldkey(0)).data.free - owner_before
    assert owner / TENSOR == pytest.approx(0.0695013, abs=5e-8)
    assert isinstance(rewards, SubnetRewards)
    assert rewards.delegate_stake_reward / TENSOR == pytest.approx(0.0232678, abs=5e-8)
    assert [node_id for node_id, _ in rewards.node_rewards] == list(IDS)
    for node_id, amount in rewards.node_rewards:
        assert amount / TENSOR == pytest.approx(0.0523526, abs=5e-8)
        base = 10**18 if node_id == elected else 0
        assert world.stake(node_id) - 100 * TENSOR - amount <= base
    balance = world.state.get(storage.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, FIRST_SUBNET)
    assert balance == 50 * TENSOR + rewards.delegate_stake_reward


@pytest.mark.parametrize(("attestors", "slash"), [(1, 1.0), (2, 0.769)])
def test_disagreement_slashes_the_proposer(attestors: int, slash: float) -> None:
    """Ratios 0.2 of five nodes with 105 TENSOR (the cap) and 0.5 of four with 101.4."""
    nodes = 5 if attestors == 1 else 4
    world = World()
    world.start(nodes)
    elected = world.elected
    stake = 105 * TENSOR if attestors == 1 else 101_4 * TENSOR // 10
    world.state.put(storage.ACCOUNT_SUBNET_STAKE, hotkey(elected - 1), FIRST_SUBNET, value=stake)
    ids = tuple(range(1, nodes + 1))
    world.propose(ids)
    for node_id in [node_id for node_id in ids if node_id != elected][: attestors - 1]:
        world.attest(node_id)
    events = world.advance(20)
    slashing = next(event for event in events if isinstance(event, Slashing))
    assert slashing.amount / TENSOR == pytest.approx(slash, abs=5e-3)
    assert world.stake(elected) == stake - slashing.amount
    assert SubnetReputationUpdate(FIRST_SUBNET, ONE, ONE * 875 // 1000) in events
    assert not any(isinstance(event, SubnetRewards) for event in events)


def test_disagreement_lowers_the_proposer_twice() -> None:
    """Seen: 1.0, then 0.96515, then 0.89788 at a ratio of 0.2."""
    world = World()
    world.start(5)
    elected = world.elected
    world.propose((1, 2, 3, 4, 5))
    updates = [event for event in world.advance(20) if isinstance(event, NodeReputationUpdate)]
    assert [event.subnet_node_id for event in updates] == [elected, elected]
    assert updates[0].new_reputation / ONE == pytest.approx(0.96515, abs=5e-6)
    assert updates[1].new_reputation / ONE == pytest.approx(0.89788, abs=5e-6)


def test_a_missing_proposal_lowers_subnet_and_elected(world: World) -> None:
    elected = world.elected
    events = world.advance(20)
    assert events == [NodeReputationUpdate(FIRST_SUBNET, elected, ONE, ONE * 95 // 100)]
    assert world.state.get(storage.SUBNET_REPUTATION, FIRST_SUBNET) == ONE * 95 // 100
    assert world.elected in IDS


def test_four_of_five_is_consensus_without_a_penalty_for_the_fifth() -> None:
    world = World()
    world.start(5)
    delegate(world)
    silent = next(node_id for node_id in range(1, 6) if node_id != world.elected)
    world.propose((1, 2, 3, 4, 5))
    for node_id in range(1, 6):
        if node_id not in (world.elected, silent):
            world.attest(node_id)
    events = world.advance(20)
    rewards = next(event for event in events if isinstance(event, SubnetRewards))
    paid = dict(rewards.node_rewards)
    assert silent in paid and paid[silent] == max(paid.values())
    assert not any(isinstance(event, NodeReputationUpdate) for event in events)


def test_empty_data_with_consensus_counts_everybody_absent(world: World) -> None:
    elected = world.elected
    events = world.agree(())
    lowered = {event.subnet_node_id for event in events if isinstance(event, NodeReputationUpdate)}
    assert lowered == set(IDS)
    assert world.stake(elected) > 100 * TENSOR


def test_a_zero_score_is_neither_paid_nor_punished(world: World) -> None:
    delegate(world)
    rows = tuple(SubnetNodeConsensusData(node_id, 0) for node_id in IDS)
    elected = world.elected
    world.apply(hotkey(elected - 1), ProposeAttestation(FIRST_SUBNET, rows))
    for node_id in others(world):
        world.attest(node_id)
    events = world.advance(20)
    assert [event.node_rewards for event in events if isinstance(event, SubnetRewards)] == [()]
    assert not any(isinstance(event, NodeReputationUpdate) for event in events)


def test_two_registrations_raise_the_burn_rate_as_seen(world: World) -> None:
    world.state.put(storage.CURRENT_NODE_BURN_RATE, FIRST_SUBNET, value=ONE)
    world.register_node(4)
    world.register_node(5)
    world.advance(20)
    assert world.state.get(storage.CURRENT_NODE_BURN_RATE, FIRST_SUBNET) == ONE * 10625 // 10000


def test_a_proposers_coldkey_moves_by_340_units(world: World) -> None:
    before = world.state.get(storage.COLDKEY_REPUTATION, coldkey(world.elected - 1)).score
    elected = world.elected
    world.agree(IDS)
    after = world.state.get(storage.COLDKEY_REPUTATION, coldkey(elected - 1))
    assert (after.score - before, after.total_increases) == (340, 1)
    assert after.average_attestation == ONE
