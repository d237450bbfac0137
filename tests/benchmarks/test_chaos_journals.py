"""The count of lost and doubled commits finds what it counts."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.chaos_journals import JournalWatch, copy_files, list_signed
from consensus.challenge import ModelShape
from consensus.commitment import CommitContext, compute_output_commitment, compute_vectors_root
from consensus.evidence import TimedRecord
from consensus.records import (
    OutputCommit,
    OutputReveal,
    RecordKind,
    encode_output_commit,
    encode_output_reveal,
)
from consensus.types import BlockNumber, Epoch, LayerRange, Role, SubnetNodeId
from keys.envelope import Envelope, seal
from keys.peer import PeerKey
from subnet.journal.journal import JOURNAL_FILE, open_journal
from subnet.simulation.inline_runner import run_inline

KEY, NODE, EPOCH = PeerKey(b"\x71" * 32), SubnetNodeId(3), Epoch(5)
NETWORK, SEED, SALT = b"n" * 32, b"s" * 32, b"t" * 32
SHAPE, LAYERS = ModelShape(num_layers=4, hidden_size=2, vocab_size=4), LayerRange(0, 2)


def seal_record(kind: RecordKind, body: bytes) -> Envelope:
    return seal(
        KEY, kind=kind, network_id=NETWORK, epoch=EPOCH, expires_at=9, node_id=NODE, body=body
    )


def make_pair(
    answer: bytes = b"answer", revealed: bytes | None = None
) -> tuple[Envelope, Envelope]:
    """Return a commit to ``answer`` and a reveal, of the same or of something else."""

    def expand(text: bytes) -> tuple[bytes, ...]:
        return (hashlib.sha256(text).digest(),) * 2

    commitment = compute_output_commitment(
        CommitContext(NETWORK, EPOCH, NODE, KEY.peer_id),
        seed=SEED,
        layers=LAYERS,
        salt=SALT,
        root=compute_vectors_root(LAYERS, expand(answer), SHAPE.num_layers),
    )
    commit = encode_output_commit(OutputCommit(SEED, LAYERS, commitment))
    reveal = encode_output_reveal(OutputReveal(SALT, LAYERS, expand(revealed or answer)))
    return seal_record(RecordKind.OUTPUT_COMMIT, commit), seal_record(
        RecordKind.OUTPUT_REVEAL, reveal
    )


def write_journal(
    folder: Path, *, own: tuple[Envelope, Envelope] | None = None, seen: Sequence[Envelope] = ()
) -> Path:
    place = folder / "1-3"
    place.mkdir(parents=True)

    async def write() -> None:
        with open_journal(place / JOURNAL_FILE, owner=b"owner", run=run_inline) as journal:
            if own is not None:
                await journal.record_signed(*own)
            await journal.record_seen([TimedRecord(one, BlockNumber(7)) for one in seen])

    asyncio.run(write())
    return folder


@pytest.fixture
def watch() -> JournalWatch:
    return JournalWatch(SHAPE)


def test_a_commit_with_its_reveal_is_neither_lost_nor_doubled(watch, tmp_path):
    pair = make_pair()
    watch.read(write_journal(tmp_path / "own", own=pair))
    watch.read(write_journal(tmp_path / "other", seen=pair))
    assert watch.is_committed_and_opened(NODE, Role.HOSTER, EPOCH)
    assert watch.list_doubled(NODE, EPOCH) == []


def test_a_commit_that_only_others_hold_is_lost(watch, tmp_path):
    watch.read(write_journal(tmp_path / "own"))
    watch.read(write_journal(tmp_path / "other", seen=make_pair()))
    assert not watch.is_committed_and_opened(NODE, Role.HOSTER, EPOCH)


def test_a_commit_that_its_reveal_does_not_open_is_lost(watch, tmp_path):
    watch.read(write_journal(tmp_path / "own", own=make_pair(revealed=b"another answer")))
    assert not watch.is_committed_and_opened(NODE, Role.HOSTER, EPOCH)


def test_another_version_in_another_journal_is_a_doubled_commit(watch, tmp_path):
    watch.read(write_journal(tmp_path / "own", own=make_pair()))
    watch.read(write_journal(tmp_path / "other", seen=make_pair(b"second thoughts")))
    assert watch.list_doubled(NODE, EPOCH) == [RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL]


def test_a_commit_that_changes_after_a_kill_is_a_doubled_commit(watch, tmp_path):
    watch.read(write_journal(tmp_path / "own", own=make_pair()))
    shutil.rmtree(tmp_path / "own")
    watch.read(write_journal(tmp_path / "own", own=make_pair(b"second thoughts")))
    assert RecordKind.OUTPUT_COMMIT in watch.list_doubled(NODE, EPOCH)


def test_a_node_that_never_started_has_no_journal_to_read(watch, tmp_path):
    watch.read(tmp_path)
    assert not watch.is_committed_and_opened(NODE, Role.VALIDATOR, EPOCH)


def test_copied_data_hold_what_was_signed(tmp_path):
    own = write_journal(tmp_path / "own", own=make_pair())
    copy_files(own, tmp_path / "copy")
    signed = {(RecordKind.OUTPUT_COMMIT, EPOCH), (RecordKind.OUTPUT_REVEAL, EPOCH)}
    assert list_signed(own) == list_signed(tmp_path / "copy") == signed
