"""The journal loses nothing, signs nothing twice, and notices every damage."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from consensus.evidence import TimedRecord
from consensus.missed import OwedDuty
from consensus.naming import get_name
from consensus.records import RecordKind
from consensus.roster import Roster, RosterNode
from consensus.submission import Submission
from consensus.types import NodeClass
from consensus.view import Attempts
from keys.envelope import seal
from keys.peer import PeerKey
from subnet.chain.extrinsic_journal import ExtrinsicJournal, ExtrinsicState
from subnet.errors import AlreadySigned, ConfigError, JournalCorrupt, JournalFailed
from subnet.journal.codec import decode_submission
from subnet.journal.disk import migrate
from subnet.journal.journal import (
    KEPT_EPOCHS,
    MAX_FETCHED,
    MAX_REASON,
    Extrinsic,
    Journal,
    open_journal,
)
from subnet.journal.log import KEPT_REPORTS, SCHEMA_VERSION
from subnet.simulation.inline_runner import run_inline
from subnet.thread_runner import open_thread_runner

KEY = PeerKey(b"\1" * 32)
OWNER = b"owner"


def make_record(kind=RecordKind.OUTPUT_COMMIT, epoch=5, body=b"body"):
    return seal(
        KEY, kind=kind, network_id=b"n" * 32, epoch=epoch, expires_at=9, node_id=1, body=body
    )


COMMIT = make_record()
REVEAL = make_record(RecordKind.OUTPUT_REVEAL, body=b"reveal")
NAMED = (COMMIT, REVEAL, make_record(RecordKind.SIGHTING))


def make_roster(epoch):
    node = RosterNode(1, KEY.peer_id, b"c" * 20, b"h" * 20, NodeClass.VALIDATOR, 0)
    foreign = RosterNode(2, None, b"d" * 20, b"i" * 20, NodeClass.IDLE, 3)
    return Roster(epoch, epoch * 20, b"b" * 32, 1000, (node, foreign))


def reopen(path, owner=OWNER):
    return open_journal(path, owner=owner, run=run_inline)


def fill_disk(disk, *, free=0, name="fill"):
    space = os.statvfs(disk)
    (disk / name).write_bytes(bytes(space.f_bavail * space.f_bsize - free))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 128 KiB; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def count_rows(path):
    with closing(sqlite3.connect(path)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM log").fetchone()
    return rows


@pytest.fixture
def quick_disk(tmp_path):
    """A folder in memory where there is one: each opening of a journal waits for the disk."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="journal-", dir=where) as place:
        yield Path(place)


async def fill(journal):
    await journal.record_signed(COMMIT, REVEAL)
    await journal.record_acknowledged(RecordKind.OUTPUT_COMMIT, 5)
    await journal.record_roster(make_roster(5))
    await journal.record_election(5, 1)
    await journal.record_election(4, None)
    await journal.record_stale(3)
    await journal.record_seen([TimedRecord(COMMIT, 103)])
    await journal.record_fetched([make_record(RecordKind.SIGHTING)])
    await journal.record_draw(5, b"d" * 32)
    await journal.record_probation(5, {7: 3, 2: 8})
    await journal.record_missed(4, OwedDuty.PROPOSE, "the account is empty")
    await journal.record_sent(Extrinsic.ATTEST, 5, 101)
    await journal.record_answered(Extrinsic.ATTEST, 5, "0xab")
    await journal.record_refused(4, "node 2: proposed 1, computed 0")
    await journal.record_submission(
        4, Submission(1, 90, ((1, 10**18),), frozenset({1}), b"args", frozenset({1, 2}), 7, 8)
    )
    await journal.record_submission(3, None)
    await journal.record_report(4, b"{}")


def describe(journal):
    return (
        dict(journal.own_records),
        dict(journal.rosters),
        dict(journal.elections),
        journal.is_stale(3),
        dict(journal.get_timed_records(5)),
        dict(journal.draws),
        dict(journal.probation),
        dict(journal.missed),
        [journal.find_by_name(get_name(record)) for record in NAMED],
        journal.get_attempts(Extrinsic.ATTEST, 5),
        dict(journal.refused),
        dict(journal.submissions),
        dict(journal.reports),
    )


def test_a_submission_of_an_earlier_version_is_read_without_voters_and_queue_arguments():
    row = b'{"proposer": 1, "block": 90, "scores": [[1, "5"]], "attested": [1, 2], "args": "ab"}'
    assert decode_submission(row) == Submission(1, 90, ((1, 5),), frozenset({1, 2}), b"\xab")


async def test_everything_survives_a_restart(tmp_path):
    path = tmp_path / "journal"
    with reopen(path) as journal:
        await fill(journal)
        before = describe(journal)
    with reopen(path) as journal:
        assert describe(journal) == before
        assert journal.own_records[RecordKind.OUTPUT_REVEAL, 5].envelope == REVEAL
        assert journal.get_attempts(Extrinsic.ATTEST, 5) == Attempts(1, 101)


def test_what_was_written_survives_a_kill(tmp_path):
    path = tmp_path / "journal"
    script = (
        "import asyncio, os, sys; from pathlib import Path\n"
        "from tests.subnet.journal.test_journal import *\n"
        "async def main():\n"
        "    with reopen(Path(sys.argv[1])) as journal:\n"
        "        await fill(journal); os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert killed.returncode == -9
    with reopen(path) as journal:
        assert journal.own_records[RecordKind.OUTPUT_COMMIT, 5].is_acknowledged
        assert journal.reports[4] == b"{}"


async def test_second_record_for_the_same_slot_is_not_signed(tmp_path):
    path = tmp_path / "journal"
    other = make_record(body=b"other")
    with reopen(path) as journal:
        await journal.record_signed(COMMIT, REVEAL)
        with pytest.raises(AlreadySigned):
            await journal.record_signed(other)
    with reopen(path) as journal:
        with pytest.raises(AlreadySigned):
            await journal.record_signed(other)
        with pytest.raises(AlreadySigned):
            await journal.record_signed(COMMIT, make_record(RecordKind.OUTPUT_REVEAL, body=b"x"))


async def test_an_identical_record_is_returned_and_written_once(tmp_path):
    with reopen(tmp_path / "journal") as journal:
        await journal.record_signed(COMMIT, REVEAL)
        assert await journal.record_signed(make_record(), REVEAL) == COMMIT


async def test_the_table_itself_refuses_a_second_signature(tmp_path):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    first = Journal.load(connection, owner=OWNER, run=run_inline)
    second = Journal.load(connection, owner=OWNER, run=run_inline)
    await first.record_election(5, 1)
    await first.record_signed(COMMIT)
    with pytest.raises(AlreadySigned):
        await second.record_signed(make_record(body=b"other"))
    with pytest.raises(JournalFailed):
        await second.record_election(6, 1)


async def test_commit_and_reveal_are_written_together_or_not_at_all(tmp_path):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    journal = Journal.load(connection, owner=OWNER, run=run_inline)
    connection.execute(
        "CREATE TEMP TRIGGER fail BEFORE INSERT ON log WHEN new.slot LIKE '4/%' "
        "BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
    )
    with pytest.raises(AlreadySigned):
        await journal.record_signed(COMMIT, REVEAL)
    assert not journal.own_records
    connection.execute("DROP TRIGGER fail")
    assert not Journal.load(connection, owner=OWNER, run=run_inline).own_records


async def test_a_failed_write_raises_and_nothing_is_signed_after_it(tmp_path):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    journal = Journal.load(connection, owner=OWNER, run=run_inline)
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(JournalFailed):
        await journal.record_signed(COMMIT, REVEAL)
    connection.execute("PRAGMA query_only = OFF")
    with pytest.raises(JournalFailed):
        await journal.record_signed(COMMIT, REVEAL)
    assert not journal.own_records


async def test_a_full_disk_is_named_and_nothing_is_signed_on_it(tmp_path):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    journal = Journal.load(connection, owner=OWNER, run=run_inline)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalFailed, match="the disk is full") as failure:
        await journal.record_signed(make_record(body=bytes(10_000)))
    assert "free some space" in failure.value.hint
    assert not journal.own_records


@pytest.mark.parametrize("free", range(0, 48 * 1024, 4096))
async def test_a_disk_that_is_full_when_the_journal_is_made_is_named_and_recovered(
    small_disk, free
):
    path = small_disk / "journal"
    fill_disk(small_disk, free=free)
    with pytest.raises(JournalFailed, match="the disk is full") as failure, reopen(path):
        pass
    assert "free some space" in failure.value.hint
    with pytest.raises(JournalFailed, match="the disk is full"):
        with ExtrinsicJournal.open(small_disk / "extrinsics"):
            pass
    (small_disk / "fill").unlink()
    with reopen(path) as journal:
        assert not journal.own_records
    path.unlink()
    with ExtrinsicJournal.open(small_disk / "extrinsics") as extrinsics:
        assert not extrinsics.list_entries(*ExtrinsicState)


async def test_a_full_journal_is_read_again_once_the_disk_has_space(small_disk):
    path = small_disk / "journal"
    with reopen(path) as journal:
        await journal.record_signed(COMMIT, REVEAL)
        fill_disk(small_disk)
        with pytest.raises(JournalFailed, match="the disk is full"):
            await journal.record_signed(make_record(epoch=6, body=bytes(10_000)))
    # What the journal had open beside the file is free again.
    fill_disk(small_disk, name="more")
    with pytest.raises(JournalFailed, match="the disk is full"), reopen(path):
        pass
    for name in ("fill", "more"):
        (small_disk / name).unlink()
    with reopen(path) as journal:
        assert set(journal.own_records) == {
            (RecordKind.OUTPUT_COMMIT, 5),
            (RecordKind.OUTPUT_REVEAL, 5),
        }


async def test_every_flipped_byte_is_noticed_or_changes_nothing(quick_disk):
    path = quick_disk / "journal"
    with reopen(path) as journal:
        await fill(journal)
        before = describe(journal)
    original = path.read_bytes()
    noticed = 0
    meaningful = [i for i, byte in enumerate(original) if byte] + list(range(0, len(original), 97))
    for position in meaningful:
        damaged = bytearray(original)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            with reopen(path) as journal:
                assert describe(journal) == before, position
        except JournalCorrupt:
            noticed += 1
    assert noticed > sum(len(part) for part in (COMMIT.to_bytes(), REVEAL.to_bytes()))


async def test_a_flipped_byte_of_a_signed_record_is_corruption(tmp_path):
    path = tmp_path / "journal"
    with reopen(path) as journal:
        await journal.record_signed(COMMIT, REVEAL)
    original = path.read_bytes()
    start = original.index(COMMIT.to_bytes())
    for position in range(start, start + len(COMMIT.to_bytes())):
        path.write_bytes(
            original[:position] + bytes([original[position] ^ 1]) + original[position + 1 :]
        )
        with pytest.raises(JournalCorrupt), reopen(path):
            pass


@pytest.mark.parametrize("statement", [
    "DELETE FROM log WHERE seq = (SELECT max(seq) FROM log)",
    "DELETE FROM log WHERE seq = 1",
    "DELETE FROM log",
    "DELETE FROM head",
    "UPDATE log SET slot = NULL WHERE seq = 1",
    "UPDATE log SET epoch = 6 WHERE seq = 1",
    "UPDATE head SET owner = x'00'",
    "PRAGMA user_version = 9",
    "DROP TABLE reports",
    "UPDATE reports SET body = x'00'",
])  # fmt: skip
async def test_a_changed_table_is_noticed(tmp_path, statement):
    path = tmp_path / "journal"
    with reopen(path) as journal:
        await fill(journal)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()
    with pytest.raises(JournalCorrupt), reopen(path):
        pass


@pytest.mark.parametrize("version", [0, 1, SCHEMA_VERSION + 1])
def test_a_journal_of_the_first_edition_or_an_unknown_version_is_refused_with_a_fix(
    tmp_path, version
):
    path = tmp_path / "journal"
    with reopen(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(JournalCorrupt, match=f"of version {version}") as refusal, reopen(path):
        pass
    assert "the release that wrote it" in refusal.value.hint


def test_an_older_version_is_migrated_step_by_step():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    steps = {1: ("CREATE TABLE a (x)",), 2: ("INSERT INTO a VALUES (7)", "DROP TABLE b")}
    connection.execute("PRAGMA user_version = 1")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        migrate(connection, what="the file", newest=3, steps=steps)
    connection.execute("ROLLBACK")
    # A step that fails changes nothing; the steps before it stand.
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.execute("CREATE TABLE b (x)")
    migrate(connection, what="the file", newest=3, steps=steps)
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert connection.execute("SELECT x FROM a").fetchall() == [(7,)]


async def test_a_truncated_journal_is_noticed(tmp_path):
    path = tmp_path / "journal"
    with reopen(path) as journal:
        await fill(journal)
    original = path.read_bytes()
    for size in range(1, len(original), 509):
        path.write_bytes(original[:size])
        with pytest.raises(JournalCorrupt), reopen(path):
            pass


async def test_signed_records_do_not_wait_in_the_write_ahead_file(tmp_path):
    path = tmp_path / "journal"
    with reopen(path) as journal:
        await journal.record_signed(COMMIT, REVEAL)
        assert COMMIT.to_bytes() in path.read_bytes()
        assert (tmp_path / "journal-wal").stat().st_size == 0


def test_a_second_process_is_refused_with_a_hint(tmp_path):
    path = tmp_path / "journal"
    with reopen(path):
        with pytest.raises(ConfigError, match="another process") as refusal, reopen(path):
            pass
        assert refusal.value.hint
    with reopen(path):
        pass


def test_the_journal_of_another_node_is_refused(tmp_path):
    path = tmp_path / "journal"
    with reopen(path):
        pass
    with pytest.raises(ConfigError, match="another node"), reopen(path, owner=b"copy"):
        pass


def test_an_unwritable_place_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError), reopen(tmp_path / "missing" / "journal"):
        pass


def test_the_files_are_for_the_owner_only(tmp_path):
    previous = os.umask(0)
    try:
        with reopen(tmp_path / "journal"):
            modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(previous)
    assert modes == {0o600}


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "journal").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError), reopen(tmp_path / "journal"):
        pass


async def test_old_epochs_are_pruned_and_cannot_be_signed_again(tmp_path):
    path = tmp_path / "journal"
    with reopen(path) as journal:
        for epoch in range(3 * KEPT_EPOCHS):
            await journal.record_roster(make_roster(epoch))
            await journal.record_signed(make_record(epoch=epoch, body=bytes(1000)))
            await journal.record_report(epoch, b"{}")
        assert len(journal.rosters) == KEPT_EPOCHS
        kept = describe(journal)
        with pytest.raises(AlreadySigned):
            await journal.record_signed(make_record(epoch=0, body=b"other"))
    assert count_rows(path) <= 2 * (KEPT_EPOCHS + 1)
    with reopen(path) as journal:
        assert describe(journal) == kept
        with pytest.raises(AlreadySigned):
            await journal.record_signed(make_record(epoch=0, body=b"other"))


async def test_an_acknowledgement_that_outlives_its_pruned_record_is_no_damage(tmp_path):
    path = tmp_path / "journal"
    with reopen(path) as journal:
        await journal.record_signed(make_record(epoch=0))
        await journal.record_roster(make_roster(1))
        # A score reveal is acknowledged in the epoch after the one that it belongs to.
        await journal.record_acknowledged(RecordKind.OUTPUT_COMMIT, 0)
        await journal.record_roster(make_roster(KEPT_EPOCHS))
        kept = describe(journal)
    with reopen(path) as journal:
        assert describe(journal) == kept


async def test_reports_are_bounded(tmp_path):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    journal = Journal.load(connection, owner=OWNER, run=run_inline)
    for epoch in range(KEPT_REPORTS + 5):
        await journal.record_report(epoch, b"{}")
    assert len(journal.reports) == KEPT_REPORTS
    assert len(Journal.load(connection, owner=OWNER, run=run_inline).reports) == KEPT_REPORTS


async def test_the_first_sighting_of_a_slot_stays(tmp_path):
    other = make_record(body=b"other")
    with reopen(tmp_path / "journal") as journal:
        for record, seen_at in ((COMMIT, 103), (other, 104)):
            await journal.record_seen([TimedRecord(record, seen_at)])
        assert journal.get_timed_records(5)[RecordKind.OUTPUT_COMMIT, 1] == TimedRecord(COMMIT, 103)
        assert journal.find_by_name(get_name(other)) is None


async def test_another_version_that_a_proposal_names_stands_beside_what_was_seen(tmp_path):
    path, other = tmp_path / "journal", make_record(body=b"other")
    with reopen(path) as journal:
        await journal.record_seen([TimedRecord(COMMIT, 103)])
        await journal.record_fetched([other, COMMIT])
    with reopen(path) as journal:
        assert journal.get_timed_records(5)[RecordKind.OUTPUT_COMMIT, 1].envelope == COMMIT
        assert journal.find_by_name(get_name(other)) == other
        assert journal.find_by_name(get_name(COMMIT)) == COMMIT
    assert count_rows(path) == 2


async def test_fetched_versions_of_one_record_are_bounded(tmp_path):
    path = tmp_path / "journal"
    versions = [make_record(body=bytes([number])) for number in range(3 * MAX_FETCHED)]
    with reopen(path) as journal:
        await journal.record_fetched(versions[:2])
        await journal.record_fetched(versions)
        await journal.record_fetched([make_record(RecordKind.SIGHTING)])
    with reopen(path) as journal:
        await journal.record_fetched(versions)
        found = [journal.find_by_name(get_name(version)) for version in versions]
        assert found == versions[:MAX_FETCHED] + [None] * 2 * MAX_FETCHED
        assert journal.find_by_name(get_name(make_record(RecordKind.SIGHTING)))


async def test_what_is_named_is_forgotten_with_its_epoch(tmp_path):
    with reopen(tmp_path / "journal") as journal:
        await fill(journal)
        await journal.record_roster(make_roster(5 + KEPT_EPOCHS))
        assert [journal.find_by_name(get_name(record)) for record in NAMED] == [None] * len(NAMED)
        assert not journal.draws and not journal.probation and not journal.missed
        await journal.record_fetched([COMMIT])
        assert journal.find_by_name(get_name(COMMIT)) is None


async def test_reasons_are_kept_short(tmp_path):
    with reopen(tmp_path / "journal") as journal:
        await journal.record_refused(5, "x" * 10_000)
        await journal.record_missed(5, OwedDuty.ATTEST, "x" * 10_000)
        assert len(journal.refused[5]) == len(journal.missed[5][OwedDuty.ATTEST]) == MAX_REASON


async def test_the_journal_writes_beside_the_event_loop(tmp_path):
    with open_thread_runner("journal") as run:
        with open_journal(tmp_path / "journal", owner=OWNER, run=run) as journal:
            await fill(journal)
            assert journal.own_records[RecordKind.OUTPUT_COMMIT, 5].is_acknowledged


async def test_a_write_cut_off_by_the_end_is_finished_before_the_file_is_closed(tmp_path):
    path = tmp_path / "journal"
    with open_thread_runner("journal") as run:
        with open_journal(path, owner=OWNER, run=run) as journal:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(journal.record_signed(COMMIT, REVEAL))
                await asyncio.sleep(0)
                writing.cancel()
            with pytest.raises(JournalFailed):
                await journal.record_election(5, 1)
    with reopen(path) as journal:
        assert set(journal.own_records) in (
            set(),
            {(RecordKind.OUTPUT_COMMIT, 5), (RecordKind.OUTPUT_REVEAL, 5)},
        )
