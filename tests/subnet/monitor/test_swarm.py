"""The rows of the snapshot: whose word counts, what is published, and nodes that leave."""

from __future__ import annotations

from consensus.types import Epoch, NodeClass, SubnetNodeId
from keys.envelope import seal
from keys.peer import PeerKey
from mesh.model.config import LayerSpan
from mesh.routing.directory import KnownServer
from mesh.routing.heartbeat import HEARTBEAT_KIND, ServerInfo, ServerRole, ServerState
from subnet.monitor.documents import EpochNode, EpochRecord
from subnet.monitor.swarm import (
    LEFT_KEPT_S,
    MAX_LEFT,
    ChainNode,
    Earned,
    Leavers,
    NewestResults,
    count_hosters,
    find_path,
    make_rows,
)
from tests.support.monitor import make_row

DIRECT = "/ip4/1.2.3.4/tcp/31330/p2p/x"
RELAYED = "/ip4/1.2.3.4/tcp/31330/p2p/y/p2p-circuit/p2p/x"


def make_key(number):
    return PeerKey(bytes([number]) * 32)


def make_server(number, *, claims=9, span=(0, 4), **changes):
    facts = {
        "role": ServerRole.HOSTER,
        "state": ServerState.ONLINE,
        "span": None if span is None else LayerSpan(*span),
        "throughput": 500,
        "free_cache_tokens": 100,
        "dtype": "float32",
        "software": "mesh/1",
        "addresses": (DIRECT,),
    }
    envelope = seal(
        make_key(number),
        kind=HEARTBEAT_KIND,
        network_id=bytes(32),
        epoch=0,
        expires_at=60,
        node_id=claims,
        body=b"",
    )
    return KnownServer(envelope, ServerInfo(**facts | changes))


def make_node(number, **changes):
    facts = {
        "node_id": SubnetNodeId(number),
        "peer_id": make_key(number).peer_id,
        "node_class": NodeClass.VALIDATOR,
        "start_epoch": Epoch(1),
    }
    return ChainNode(**facts | changes)


def list_rows(servers, nodes, **changes):
    options = {"earned": Earned(), "own": None, "with_addresses": False} | changes
    earned = options.pop("earned")
    return list(make_rows(servers, nodes, earned, **options).values())


def make_result(epoch, **facts):
    return EpochRecord(epoch=epoch, nodes=(EpochNode(node_id=1, **facts),))


def test_a_heartbeat_cannot_claim_the_node_id_of_another_peer():
    liar = make_server(2, claims=1)
    rows = {row.peer_id: row for row in list_rows([liar], [make_node(1)])}
    assert rows[str(make_key(2).peer_id)].node_id is None
    assert rows[str(make_key(1).peer_id)].node_id == 1
    assert rows[str(make_key(1).peer_id)].state == "absent"


def test_addresses_are_published_only_where_they_are_asked_for():
    (row,) = list_rows([make_server(1)], [])
    assert row.addresses == () and row.path == "direct"
    (row,) = list_rows([make_server(1)], [], with_addresses=True)
    assert row.addresses == (DIRECT,)


def test_a_node_is_relayed_if_every_address_leads_over_a_relay():
    assert find_path((RELAYED,)) == "relayed"
    assert find_path((RELAYED, DIRECT)) == "direct"
    assert find_path(()) is None


def test_amounts_keep_all_their_digits():
    stake = 123_456_789_012_345_678_901
    (row,) = list_rows([], [make_node(1, stake=stake)], earned=Earned(paid={1: 7}))
    assert (row.stake, row.paid) == (str(stake), "7")


def test_results_of_an_earlier_epoch_replace_none_of_a_later_one():
    newest = NewestResults()
    newest.note(make_result(5, score=50, accuracy=5), is_scored=True)
    newest.note(make_result(4, score=40, paid="400"), is_scored=True)
    assert (newest.scored_epoch, newest.settled_epoch) == (5, 4)
    assert newest.earned == Earned(scores={1: 50}, accuracies={1: 5}, paid={1: 400})


def test_a_record_that_is_not_scored_tells_pay_alone():
    newest = NewestResults()
    newest.note(make_result(4, score=40, probation=2), is_scored=True)
    newest.note(make_result(5, score=50, paid="500"), is_scored=False)
    assert (newest.scored_epoch, newest.settled_epoch) == (4, 5)
    assert newest.earned == Earned(scores={1: 40}, paid={1: 500}, probation={1: 2})


def test_a_node_without_a_usable_peer_id_has_a_row():
    (row,) = list_rows([], [make_node(3, peer_id=None)])
    assert (row.key, row.node_id, row.peer_id) == ("node-3", 3, None)


def test_only_servers_that_take_sessions_cover_a_block():
    servers = [
        make_server(1, span=(0, 3)),
        make_server(2, span=(2, 9), state=ServerState.DRAINING),
        make_server(3, span=None, role=ServerRole.VALIDATOR),
    ]
    assert count_hosters(servers, num_blocks=4) == (1, 1, 1, 0)
    assert count_hosters(servers, num_blocks=0) == ()


def test_a_node_that_fell_silent_is_shown_as_left_with_what_it_served():
    leavers = Leavers()
    online, absent = make_row(1), make_row(1, state="absent", blocks=None, dtype="", score=7)
    leavers.merge({online.key: online}, now_s=100)
    row = leavers.merge({absent.key: absent}, now_s=150)[online.key]
    assert (row.state, row.blocks, row.left_at, row.score) == ("left", (0, 8), 150, 7)
    # It is back.
    row = leavers.merge({online.key: online}, now_s=160)[online.key]
    assert row == online


def test_a_node_that_left_the_chain_too_is_forgotten_after_a_while():
    leavers, row = Leavers(), make_row(1)
    leavers.merge({row.key: row}, now_s=100)
    assert leavers.merge({}, now_s=110)[row.key].state == "left"
    assert leavers.merge({}, now_s=110 + LEFT_KEPT_S + 1) == {}


def test_the_number_of_remembered_nodes_is_bounded():
    leavers = Leavers()
    rows = {row.key: row for row in (make_row(number) for number in range(1, 2 * MAX_LEFT))}
    leavers.merge(rows, now_s=1)
    assert len(leavers.merge({}, now_s=2)) == MAX_LEFT
