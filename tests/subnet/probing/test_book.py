"""The rule "the last three probes, in three epochs of the last 32, all failed", and the file."""

from __future__ import annotations

import json
import os
import stat

import pytest

from consensus.protocol_params import MAINNET
from consensus.roster import Roster
from consensus.types import Epoch
from subnet.probing.book import BOOK_FILE, MAX_NODES, ProbeBook
from tests.support.node import make_roster_node

NETWORK = b"n" * 32


def make_roster(epoch):
    nodes = tuple(make_roster_node(node_id) for node_id in (1, 2, 3))
    return Roster(Epoch(epoch), 0, b"h" * 32, 0, nodes)


def make_book(path=None, network_id=NETWORK):
    if path is None:
        return ProbeBook(None, network_id=network_id, params=MAINNET)
    return ProbeBook.open(path, network_id=network_id, params=MAINNET)


def note(book, node_id, *results):
    for epoch, passed in results:
        book.record(node_id, Epoch(epoch), passed=passed)


@pytest.mark.parametrize(
    ("results", "is_failed"),
    [
        ([(10, False), (11, False), (12, False)], True),
        ([(10, True), (11, False), (12, False), (13, False)], True),
        ([(10, False), (11, False)], False),
        ([(10, False), (11, False), (11, False), (11, False)], False),
        ([(10, False), (11, True), (12, False)], False),
        ([(10, False), (11, False), (12, False), (13, True)], False),
        ([(-12, False), (11, False), (12, False)], False),
        ([(-11, False), (11, False), (12, False)], True),
    ],
    ids=[
        "three in a row",
        "an older success does not help",
        "two",
        "one an epoch",
        "a success between",
        "a success since",
        "one is too old",
        "just young enough",
    ],
)
def test_a_bit_is_set_after_three_failed_probes_in_three_of_the_last_32_epochs(results, is_failed):
    book = make_book()
    note(book, 2, *[(epoch + 20, passed) for epoch, passed in results])
    assert book.list_failed(make_roster(40)) == ({2} if is_failed else frozenset())


def test_nodes_outside_the_roster_have_no_bit():
    book = make_book()
    note(book, 9, (1, False), (2, False), (3, False))
    assert book.list_failed(make_roster(3)) == frozenset()


def test_probes_of_later_epochs_do_not_count_in_a_rosters_bits():
    book = make_book()
    note(book, 1, (1, False), (2, False), (3, False))
    assert book.list_failed(make_roster(2)) == frozenset()
    assert book.list_failed(make_roster(3)) == {1}


def test_the_first_result_of_an_epoch_stays():
    book = make_book()
    note(book, 1, (5, True), (5, False))
    assert book.list_failed_last() == frozenset()
    assert book.is_recorded(1, 5)
    assert not book.is_recorded(1, 6)


def test_results_survive_a_restart_in_a_private_file(tmp_path):
    path = tmp_path / BOOK_FILE
    old_umask = os.umask(0)
    try:
        note(make_book(path), 1, (5, False), (6, False), (7, False))
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = make_book(path)
    assert again.list_failed(make_roster(7)) == {1}
    assert again.list_failed_last() == {1}
    assert [entry.name for entry in tmp_path.iterdir()] == [BOOK_FILE]


def test_the_results_of_another_network_do_not_count(tmp_path):
    path = tmp_path / BOOK_FILE
    note(make_book(path), 1, (5, False))
    assert not make_book(path, network_id=b"o" * 32).list_failed_last()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 9,
        b"{}",
        b"[1]",
        json.dumps({"version": 1, "network_id": NETWORK.hex(), "probes": {"a": []}}).encode(),
        json.dumps({"version": 1, "network_id": NETWORK.hex(), "probes": {"1": [[1]]}}).encode(),
        json.dumps({"version": 2, "network_id": NETWORK.hex(), "probes": {}}).encode(),
        json.dumps({"version": 1, "network_id": NETWORK.hex(), "probes": {"1": []}}).encode(),
    ],
)
def test_a_broken_book_is_begun_anew(tmp_path, content):
    path = tmp_path / BOOK_FILE
    path.write_bytes(content)
    book = make_book(path)
    assert not book.list_failed_last()
    note(book, 1, (5, False))
    assert make_book(path).list_failed_last() == {1}


def test_a_link_in_its_place_is_not_followed(tmp_path):
    target, path = tmp_path / "target", tmp_path / BOOK_FILE
    target.write_text("keep")
    path.with_suffix(".new").symlink_to(target)
    book = make_book(path)
    note(book, 1, (5, False))
    assert target.read_text() == "keep"
    assert book.list_failed_last() == {1}


def test_a_disk_that_takes_nothing_costs_only_the_file(tmp_path):
    book = make_book(tmp_path / "missing" / BOOK_FILE)
    note(book, 1, (5, False))
    assert book.list_failed_last() == {1}


def test_the_book_is_bounded(tmp_path):
    path = tmp_path / BOOK_FILE
    book = make_book()
    book._path = None
    for node_id in range(MAX_NODES + 10):
        note(book, node_id, (node_id, False), (node_id + 1, False))
    assert len(book.list_failed_last()) <= MAINNET.probe_memory_epochs + 1
    for node_id in range(MAX_NODES + 10):
        note(book, node_id, (5000, False))
    assert len(book.list_failed_last()) == MAX_NODES
    note(book, 1, (9000, True))
    assert not book.list_failed_last()
    assert not path.exists()
