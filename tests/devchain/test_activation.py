"""The original flow's activation window, and the queue of the automatic mode."""

from __future__ import annotations

import pytest

from consensus.types import NodeClass
from devchain import storage
from devchain.calls import ActivateSubnetNode
from devchain.chain_types import ActivationMode, SubnetNodeClassification
from devchain.errors import DispatchError
from devchain.events import NodeClassGraduation, SubnetNodeActivated
from tests.support.ledger_world import FIRST_SUBNET, World, coldkey, hotkey

AUTOMATIC = ActivationMode.AUTOMATIC
VALIDATORS = (1, 2, 3, 4)


def waiting(world: World, node_id: int) -> SubnetNodeClassification:
    node = world.state.get(storage.REGISTERED_SUBNET_NODES_DATA, FIRST_SUBNET, node_id)
    return node.classification


def test_a_node_of_a_registering_subnet_is_activated_at_once_as_validator() -> None:
    world = World()
    world.register_subnet()
    world.register_node(0)
    assert waiting(world, 1) == SubnetNodeClassification(NodeClass.REGISTERED, 0)
    assert world.activate_node(0)[-1] == SubnetNodeActivated(FIRST_SUBNET, 1)
    assert world.node(1).classification == SubnetNodeClassification(NodeClass.VALIDATOR, 0)
    assert world.state.get(storage.SUBNET_NODE_ELECTION_SLOTS, FIRST_SUBNET) == (1,)


def test_the_hotkey_may_activate_and_others_may_not() -> None:
    world = World()
    world.register_subnet()
    world.register_node(0)
    with pytest.raises(DispatchError, match="NotKeyOwner"):
        world.activate_node(1, node_id=1)
    world.apply(hotkey(0), ActivateSubnetNode(FIRST_SUBNET, 1))
    with pytest.raises(DispatchError, match="InvalidSubnetNodeId"):
        world.activate_node(0)


def test_registration_alone_never_makes_a_node_live() -> None:
    world = World()
    world.start()
    world.register_node(4)
    for _ in range(6):
        world.agree(VALIDATORS)
    assert not world.state.contains(storage.SUBNET_NODES_DATA, FIRST_SUBNET, 5)
    assert all(
        node.id != 5
        for node in world.state.get(
            storage.SUBNET_CONSENSUS_SUBMISSION, FIRST_SUBNET, world.epoch - 1
        ).subnet_nodes
    )


@pytest.mark.parametrize(
    ("waited_epochs", "is_open"), [(0, False), (1, True), (3, True), (4, False)]
)
def test_the_window_is_the_start_epoch_and_its_grace(waited_epochs: int, is_open: bool) -> None:
    world = World(activation_grace_epochs=2)
    world.start()
    world.register_node(4)
    assert waiting(world, 5).start_epoch == world.epoch + 1
    world.advance(20 * waited_epochs)
    if not is_open:
        with pytest.raises(DispatchError, match="NotStartEpoch"):
            world.activate_node(4)
        return
    world.activate_node(4)
    assert world.node(5).classification == SubnetNodeClassification(NodeClass.IDLE, world.epoch)


def test_the_window_closes_with_its_last_block() -> None:
    world = World(activation_grace_epochs=0)
    world.start()
    world.register_node(4)
    world.advance(39)
    world.activate_node(4)
    late = World(activation_grace_epochs=0)
    late.start()
    late.register_node(4)
    late.advance(40)
    with pytest.raises(DispatchError, match="NotStartEpoch"):
        late.activate_node(4)


def test_queue_epochs_delay_the_start() -> None:
    world = World(activation_queue_epochs=3)
    world.start()
    world.register_node(4)
    assert waiting(world, 5).start_epoch == world.epoch + 4


def test_an_activated_node_climbs_from_idle_to_validator() -> None:
    world = World()
    world.start()
    world.register_node(4)
    world.advance(20)
    world.activate_node(4)
    classes = []
    for _ in range(5):
        world.agree((1, 2, 3, 4, 5))
        classes.append(world.node(5).classification.node_class)
    idle, included, validator = NodeClass.IDLE, NodeClass.INCLUDED, NodeClass.VALIDATOR
    assert classes == [idle, included, included, validator, validator]
    assert 5 in world.state.get(storage.SUBNET_NODE_ELECTION_SLOTS, FIRST_SUBNET)


def test_the_call_fails_by_name_in_automatic_mode() -> None:
    world = World(activation_mode=AUTOMATIC)
    world.start(activate=False)
    world.register_node(4)
    with pytest.raises(DispatchError, match="ActivationIsAutomatic"):
        world.activate_node(4)


def test_the_queue_follows_the_live_timeline() -> None:
    """Seen on the real runtime: registered in 3, start 4, Idle at 8, Included 10, Validator 12."""
    world = World(activation_mode=AUTOMATIC)
    world.start(activate=False)
    while world.epoch < 3:
        world.agree(VALIDATORS)
    world.register_node(4)
    assert waiting(world, 5).start_epoch == 4
    reached: dict[NodeClass, int] = {}
    while world.epoch < 13:
        world.agree((1, 2, 3, 4, 5))
        node = world.state.find(storage.SUBNET_NODES_DATA, FIRST_SUBNET, 5)
        if node is not None:
            reached.setdefault(node.classification.node_class, world.epoch)
    assert reached == {NodeClass.IDLE: 8, NodeClass.INCLUDED: 10, NodeClass.VALIDATOR: 12}


def test_the_churn_limit_bounds_activations_of_one_epoch() -> None:
    world = World(activation_mode=AUTOMATIC)
    world.start(activate=False)
    world.state.put(storage.CHURN_LIMIT, FIRST_SUBNET, value=2)
    for index in range(4, 7):
        world.register_node(index)
    counts = []
    for _ in range(6):
        world.agree(VALIDATORS)
        counts.append(world.state.get(storage.TOTAL_ACTIVE_SUBNET_NODES, FIRST_SUBNET))
    assert counts == [4, 4, 4, 4, 6, 7]


def test_a_super_majority_reorders_and_removes_queued_nodes() -> None:
    world = World(activation_mode=AUTOMATIC)
    world.start(activate=False)
    for index in (4, 5, 6):
        world.register_node(index)
    for _ in range(4):
        world.agree(VALIDATORS)
    # The immunity of three epochs is over: start epoch 2, now epoch 5.
    world.propose(VALIDATORS, prioritize_queue_node_id=7, remove_queue_node_id=5)
    for node_id in VALIDATORS:
        if node_id != world.elected:
            world.attest(node_id)
    world.state.put(storage.CHURN_LIMIT, FIRST_SUBNET, value=1)
    world.advance(20)
    queue = world.state.get(storage.SUBNET_NODE_QUEUE, FIRST_SUBNET)
    assert [node.id for node in queue] == [6]
    assert world.node(7).classification.node_class is NodeClass.IDLE
    assert not world.state.contains(storage.HOTKEY_SUBNET_NODE_ID, FIRST_SUBNET, hotkey(4))


def test_an_included_node_left_out_once_never_becomes_validator() -> None:
    """The real runtime's quirk: reputation recovers to 9 units below 1.0 and no farther."""
    world = World()
    world.start()
    world.register_node(4)
    world.advance(20)
    world.activate_node(4)
    for _ in range(2):
        world.agree((1, 2, 3, 4, 5))
    assert world.node(5).classification.node_class is NodeClass.INCLUDED
    world.agree(VALIDATORS)
    events = [world.agree((1, 2, 3, 4, 5)) for _ in range(500)][-1]
    reputation = world.state.get(storage.SUBNET_NODE_REPUTATION, FIRST_SUBNET, 5)
    assert reputation == 10**18 - 9
    assert not any(isinstance(event, NodeClassGraduation) for event in events)
    assert world.node(5).classification.node_class is NodeClass.INCLUDED


def test_coldkeys_count_their_nodes() -> None:
    world = World()
    world.register_subnet()
    world.register_node(0)
    world.activate_node(0)
    reputation = world.state.get(storage.COLDKEY_REPUTATION, coldkey(0))
    assert (reputation.lifetime_node_count, reputation.total_active_nodes) == (1, 1)
