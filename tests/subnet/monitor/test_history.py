"""The history file: what it keeps, its limits, and files that cannot be used."""

from __future__ import annotations

import os
import sqlite3
import stat

import structlog

from subnet.monitor import history as module
from subnet.monitor.documents import EpochNode, EpochRecord
from subnet.monitor.history import open_history

NETWORK = b"n" * 32


def make_record(epoch, *, nodes=3):
    rows = tuple(
        EpochNode(node_id=node, score=epoch, problem=os.urandom(400).hex()) for node in range(nodes)
    )
    return EpochRecord(epoch=epoch, nodes=rows)


def test_what_is_written_is_read_after_a_restart(tmp_path):
    path = tmp_path / "monitor.sqlite"
    records = [make_record(epoch) for epoch in (3, 1, 2)]
    with open_history(path, network_id=NETWORK) as history:
        for record in records:
            history.write(record)
    with open_history(path, network_id=NETWORK) as history:
        assert history.read(2) == records[2]
        assert [record.epoch for record in history.read_last(2)] == [2, 3]
        assert history.list_epochs() == (1, 2, 3)
        assert history.read(9) is None
        tables = history.read_tables(2)
        assert (tables.oldest, [row.epoch for row in tables.epochs]) == (1, [2, 3])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_later_record_of_an_epoch_replaces_the_earlier_one(tmp_path):
    with open_history(tmp_path / "h", network_id=NETWORK) as history:
        history.write(make_record(1))
        later = make_record(1, nodes=5)
        history.write(later)
        assert history.read(1) == later
        assert history.list_epochs() == (1,)


def test_the_file_stays_within_its_bytes_and_the_oldest_go_first(tmp_path):
    path, limit = tmp_path / "monitor.sqlite", 512 << 10
    with open_history(path, network_id=NETWORK, max_bytes=limit) as history:
        for epoch in range(60):
            history.write(make_record(epoch, nodes=60))
            assert path.stat().st_size <= limit
        kept = history.list_epochs()
    assert kept[-1] == 59
    assert kept == tuple(range(kept[0], 60))
    assert 5 < len(kept) < 60


def test_the_number_of_epochs_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_EPOCHS", 4)
    with open_history(None, network_id=NETWORK) as history:
        for epoch in range(10):
            history.write(make_record(epoch))
        assert history.list_epochs() == (6, 7, 8, 9)


def test_another_networks_history_is_replaced(tmp_path):
    path = tmp_path / "h"
    with open_history(path, network_id=NETWORK) as history:
        history.write(make_record(1))
    with structlog.testing.capture_logs() as logs:
        with open_history(path, network_id=b"o" * 32) as history:
            assert history.list_epochs() == ()
            history.write(make_record(2))
    assert [entry["event"] for entry in logs] == ["the monitor's history starts anew"]


def test_a_damaged_file_is_replaced(tmp_path):
    path = tmp_path / "h"
    path.write_bytes(b"this is no database" * 100)
    with open_history(path, network_id=NETWORK) as history:
        history.write(make_record(1))
        assert history.list_epochs() == (1,)


def test_a_row_that_makes_no_sense_is_left_out(tmp_path):
    path = tmp_path / "h"
    with open_history(path, network_id=NETWORK) as history:
        history.write(make_record(1))
        history.write(make_record(2))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE epochs SET body = x'00ff' WHERE epoch = 1")
    connection.close()
    with open_history(path, network_id=NETWORK) as history:
        assert history.read(1) is None
        assert [record.epoch for record in history.read_last(5)] == [2]


def test_a_write_that_fails_costs_nothing_else(tmp_path):
    path = tmp_path / "h"
    with open_history(path, network_id=NETWORK, max_bytes=1 << 16) as history:
        with structlog.testing.capture_logs() as logs:
            # One record alone is larger than the whole file may be.
            history.write(make_record(1, nodes=2000))
            history.write(make_record(2, nodes=2000))
        assert [entry["event"] for entry in logs] == ["the monitor's history cannot be written"]
        history.write(make_record(3))
        assert history.read(3) is not None
