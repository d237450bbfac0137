"""A node's monitor over running nodes: its numbers are those of the journal, scorer and chain."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict

import pytest

from consensus.protocol_params import MAINNET
from consensus.submission import Submission
from consensus.types import Epoch, SubnetNodeId
from mesh.routing.info import NetworkInfo
from subnet.account.eligibility import Eligibility, Obstacle
from subnet.epoch.observer import HeadHandled
from subnet.errors import ConfigError, ReceiptNotKept
from subnet.monitor.collector import NodeMonitor, NodeSources, describe_network
from subnet.monitor.epochs import NO_ROW
from subnet.monitor.history import open_history
from subnet.monitor.swarm import to_millionths
from subnet.receipts.recompute import recompute
from subnet.receipts.store import ReceiptStore
from subnet.simulation.inline_runner import run_inline
from tests.support.node import NETWORK_ID, SHAPE, make_terms
from tests.support.receipts import EVERYBODY, HOSTERS, LEAST, VALIDATORS, KeepingSubnet

OBSERVER = 5
EPOCHS = 4


OWN_ELIGIBILITY = Eligibility(Epoch(5), Obstacle.PROCESS, "no hotkey was given")


class StillChain:
    """Stands for ChainView: what the fake chain says, without asking an endpoint."""

    def __init__(self, chain) -> None:
        self._chain = chain
        self.nodes = ()
        self.min_attestation = LEAST
        self.paid = OrderedDict({3: {1: 77}})

    async def follow(self, epoch: int) -> bool:
        return False

    async def fetch_submission(self, epoch: int) -> Submission | None:
        return self._chain.submissions.get(epoch)


class NoServers:
    def list_servers(self):
        return ()


@pytest.fixture
async def subnet(tmp_path):
    subnet = KeepingSubnet()
    subnet.nodes[OBSERVER].receipts = ReceiptStore(tmp_path)
    await subnet.run_to(EPOCHS, 6)
    return subnet


def make_monitor(subnet, tmp_path, history):
    node = subnet.nodes[OBSERVER]
    info = NetworkInfo(NETWORK_ID, b"m" * 32, "mesh-tiny", SHAPE.num_layers, 64, 50, "test")
    sources = NodeSources(
        terms=make_terms(subnet.chain),
        shape=SHAPE,
        network=info,
        journal=node.journal,
        get_roster=node.rosters.get_newest_roster,
        directory=NoServers(),
        chain=StillChain(subnet.chain),
        own=node.key.peer_id,
        node_id=SubnetNodeId(OBSERVER),
        get_eligibility=lambda: OWN_ELIGIBILITY,
        data_dir=tmp_path,
        get_wall_time_s=lambda: 1000.0,
    )
    monitor = NodeMonitor(sources, history, run=run_inline, shows_addresses=False)
    for event in node.events:
        monitor.observe(event)
    return monitor


async def collect(monitor) -> None:
    """Let the monitor collect once what its node told it."""
    task = asyncio.ensure_future(monitor.run())  # noqa: TID251
    while monitor.hub.snapshot is None or monitor._changed:
        assert not task.done(), task.result()
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_node_s_own_page_says_what_keeps_it_itself_from_earning(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
    rows = {row.node_id: row.eligibility for row in monitor.hub.snapshot.nodes}
    own = rows.pop(OBSERVER)
    assert (own.epoch, own.obstacle) == (5, "process")
    assert own.text == "epoch 5: not eligible: no hotkey was given"
    assert rows and set(rows.values()) == {None}


async def test_scores_are_those_that_the_receipts_compute_again(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
        evidence = subnet.receipts[1].kept[2]
        rows = dict(recompute(evidence).report.rows)
        record = await monitor.read_epoch(2)
        found = await monitor.read_history(8)
    assert {node.node_id: node.score for node in record.nodes} == {
        node_id: to_millionths(score) for node_id, score in rows.items()
    }
    column = [epoch.epoch for epoch in found.epochs].index(2)
    scores = dict(zip(found.nodes, (row[column] for row in found.scores), strict=True))
    assert scores == {node_id: to_millionths(score) for node_id, score in rows.items()}
    assert any(score for score in scores.values())


async def test_the_timeline_says_when_each_record_was_seen(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
        record = await monitor.read_epoch(3)
    nodes = {node.node_id: node for node in record.nodes}
    assert nodes.keys() == set(EVERYBODY)
    for node_id in HOSTERS:
        assert nodes[node_id].role == "hoster"
        assert {"commit", "reveal", "sighting"} <= nodes[node_id].records.keys()
    for node_id in VALIDATORS:
        assert nodes[node_id].role == "validator"
        assert {"audit_commit", "audit_reveal", "score_reveal"} <= nodes[node_id].records.keys()
    for node in record.nodes:
        for kind, offset in node.records.items():
            window = record.windows[kind]
            assert window.opens <= offset < window.closes, (node.node_id, kind)
    assert record.proposal is not None and record.proposal.is_agreed
    assert record.proposal.ratio == 1_000_000 and record.proposal.needed == to_millionths(LEAST)
    assert len(record.audited_blocks) == MAINNET.audit_layers


async def test_validators_are_judged_and_pay_is_that_of_the_next_epochs_settlement(
    subnet, tmp_path
):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
        record = await monitor.read_epoch(2)
    nodes = {node.node_id: node for node in record.nodes}
    assert {nodes[node_id].accuracy for node_id in VALIDATORS} == {1_000_000}
    assert nodes[1].paid == "77" and nodes[2].paid is None


async def test_the_present_epoch_is_shown_before_it_is_scored(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
        record = await monitor.read_epoch(EPOCHS)
    head = monitor.hub.snapshot.head
    assert (head.chain.epoch, head.chain.offset, head.chain.phase) == (EPOCHS, 6, "commit")
    assert head.scored_epoch == EPOCHS - 1
    assert record.source is None and record.proposal.is_agreed is None
    assert all("commit" in node.records for node in record.nodes if node.node_id in HOSTERS)
    assert not any(node.problem for node in record.nodes)


async def test_a_receipt_is_served_and_leaves_out_what_only_the_node_knows(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
        body = json.loads(await monitor.read_receipt(2, 1))
        record = await monitor.read_epoch(2)
        (node,) = [node for node in record.nodes if node.node_id == 1]
        assert body["verdict"] == "equal"
        assert to_millionths(int(body["score"])) == node.score
        with pytest.raises(ConfigError, match="no node 99"):
            await monitor.read_receipt(2, 99)
        with pytest.raises(ReceiptNotKept):
            await monitor.read_receipt(77, 1)


async def test_a_new_history_begins_with_the_reports_of_the_journal(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
        assert set(history.list_epochs()) >= set(subnet.nodes[OBSERVER].journal.reports)


async def test_records_alone_are_no_news_for_the_history(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        await collect(monitor)
        before = monitor.hub.results_revision
        (newest,) = subnet.nodes[OBSERVER].list_events(HeadHandled)[-1:]
        monitor.observe(newest)
        monitor._changed.add(EPOCHS)
        await monitor._refresh()
    assert monitor.hub.results_revision == before


async def test_a_node_without_a_row_is_marked(subnet, tmp_path):
    with open_history(None, network_id=NETWORK_ID) as history:
        monitor = make_monitor(subnet, tmp_path, history)
        journal = subnet.nodes[OBSERVER].journal
        report = json.loads(journal.reports[2])
        report["rows"] = [row for row in report["rows"] if row[0] != 3]
        report["hosters"] = [row for row in report["hosters"] if row["subnet_node_id"] != 3]
        journal._reports[2] = json.dumps(report).encode()
        record = await monitor.read_epoch(2)
    (node,) = [node for node in record.nodes if node.node_id == 3]
    assert node.score is None and node.problem == NO_ROW


def test_a_models_folder_is_not_published():
    info = NetworkInfo(b"n" * 32, b"m" * 32, "/home/me/models/tiny", 4, 64, 50, "test")
    assert describe_network(info, subnet_id=None).model == "tiny"
