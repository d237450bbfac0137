"""A receipt file: one encoding, a name for what of an edited one does not hold, and bounds."""

from __future__ import annotations

import hashlib
import random
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.missed import OwedDuty
from consensus.records import NamedList, RecordKind
from consensus.types import Epoch, Score, SubnetNodeId
from subnet import private_file
from subnet.errors import ReceiptDamaged, ReceiptError, ReceiptInvalid
from subnet.receipts import encoding, store
from subnet.receipts.checking import open_shared
from subnet.receipts.encoding import check_digest, decode_evidence, encode_evidence
from subnet.receipts.evidence import EpochEvidence, Notes, OwnRecord
from subnet.receipts.recompute import Basis, recompute
from subnet.receipts.store import ReceiptStore, list_epochs, read_receipt
from tests.support import receipts
from tests.support.epoch_records import EPOCH, WRONG, World, find_draw, make_roster, sign
from tests.support.receipts import make_evidence

NOTES = Notes(
    missed=((Epoch(EPOCH), OwedDuty.OUTPUT_COMMIT.name, "the model is still loading"),),
    refused="node 3: proposed 1, computed 2",
    num_heads=17,
    chain_trouble="ws://127.0.0.1:1 — no answer",
)


def make(**changes: object) -> EpochEvidence:
    """Return the evidence of an epoch with every kind of record, and every field set."""
    world = World(
        previous=make_roster(epoch=EPOCH - 1),
        draw=find_draw(1),
        probation={SubnetNodeId(3): 2},
    )
    world.host(1, 2, 3, 4, age=1)
    world.host(1, 2, 3)
    world.host(4, vectors=WRONG)
    world.audit(5, 6, 7)
    world.score_before(5, 6, 7)
    own = (OwnRecord(RecordKind.OUTPUT_COMMIT, Epoch(EPOCH), True),)
    gone = frozenset({SubnetNodeId(6)})
    return make_evidence(world, notes=NOTES, own=own, departed=gone, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole() -> EpochEvidence:
    return make()


def reseal(raw: bytes) -> bytes:
    """Return edited bytes with the checksum that fits them."""
    body = raw[:-32]
    return body + hashlib.sha256(body).digest()


def test_a_file_gives_back_what_was_kept(whole: EpochEvidence) -> None:
    raw = encode_evidence(whole)
    check_digest(raw)
    assert decode_evidence(raw) == whole


def test_optional_fields_may_be_missing(whole: EpochEvidence) -> None:
    bare = replace(
        whole,
        previous=None,
        draw=None,
        elected=None,
        submission=None,
        min_attestation=None,
        probation={},
        records=(),
        seen=(),
        own=(),
        notes=Notes(),
    )
    assert decode_evidence(encode_evidence(bare)) == bare


def test_what_is_shared_is_whole_and_has_no_notes(whole: EpochEvidence) -> None:
    raw = encode_evidence(whole.share(SubnetNodeId(4)))
    evidence, again = open_shared(raw)
    assert (evidence.about, evidence.notes) == (4, Notes())
    assert again.basis is Basis.NAMED
    assert b"ws://" not in raw and b"still loading" not in raw


def test_a_file_that_is_cut_off_anywhere_is_damaged(whole: EpochEvidence) -> None:
    raw = encode_evidence(whole)
    for size in (0, 1, 40, 100, *random.Random(1).sample(range(100, len(raw)), 60)):
        with pytest.raises(ReceiptDamaged):
            decode_evidence(raw[:size])
    with pytest.raises(ReceiptDamaged, match="follow its end"):
        decode_evidence(raw[:-32] + b"\0" + raw[-32:])


def test_a_flipped_bit_anywhere_is_found(whole: EpochEvidence) -> None:
    raw = encode_evidence(whole.share(SubnetNodeId(4)))
    for place in random.Random(2).sample(range(len(raw)), 150):
        edited = bytearray(raw)
        edited[place] ^= 1 << place % 8
        with pytest.raises(ReceiptError):
            open_shared(bytes(edited))


def test_a_size_is_checked_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_SIZE", 1000)
    with pytest.raises(ReceiptDamaged, match="not the size"):
        decode_evidence(bytes(1001))


def test_a_count_is_not_believed(whole: EpochEvidence) -> None:
    raw = encode_evidence(replace(whole, records=(), seen=(), own=(), notes=Notes()))
    # The last list but for the notes is that of the node's own records.
    place = len(raw) - 32 - 4 - 3 - 4
    edited = raw[:place] + (2**32 - 1).to_bytes(4, "little") + raw[place + 4 :]
    with pytest.raises(ReceiptDamaged, match="a list of 4294967295 entries"):
        decode_evidence(edited)


def test_rosters_are_of_epochs_in_a_row_and_list_a_node_once(whole: EpochEvidence) -> None:
    roster = whole.roster
    other = replace(whole, following=replace(whole.following, epoch=Epoch(EPOCH + 2)))
    with pytest.raises(ReceiptDamaged, match="epochs in a row"):
        decode_evidence(encode_evidence(other))
    twice = replace(roster, nodes=(roster.nodes[0], *roster.nodes))
    with pytest.raises(ReceiptDamaged, match="a node twice"):
        decode_evidence(encode_evidence(replace(whole, roster=twice)))


def test_an_epoch_that_no_protocol_has_is_refused(whole: EpochEvidence) -> None:
    with pytest.raises(ReceiptDamaged, match="no protocol"):
        decode_evidence(encode_evidence(replace(whole, epoch_length=19)))


def edit_reveal(evidence: EpochEvidence) -> EpochEvidence:
    """Change what a hoster revealed, under its old signature."""
    records = [
        replace(record, body=record.body[:-4] + bytes(4))
        if (record.kind, record.epoch, record.node_id) == (RecordKind.OUTPUT_REVEAL, EPOCH, 4)
        else record
        for record in evidence.records
    ]
    return replace(evidence, records=tuple(records))


def swap_commit(evidence: EpochEvidence) -> EpochEvidence:
    """Put a record in place of another one, rightly signed by its author."""
    records = [
        sign(RecordKind.OUTPUT_COMMIT, EPOCH, 4, record.body[:-1] + b"x")
        if (record.kind, record.epoch, record.node_id) == (RecordKind.OUTPUT_COMMIT, EPOCH, 4)
        else record
        for record in evidence.records
    ]
    return replace(evidence, records=tuple(records))


def steal_identity(evidence: EpochEvidence) -> EpochEvidence:
    """Give a node another key."""
    roster = evidence.roster
    first, second, *rest = roster.nodes
    nodes = (replace(first, peer_id=second.peer_id), replace(second, peer_id=first.peer_id), *rest)
    return replace(evidence, roster=replace(roster, nodes=nodes))


def raise_score(evidence: EpochEvidence) -> EpochEvidence:
    """Say that the chain has more for a node."""
    proposal = evidence.submission
    assert proposal is not None
    rows = tuple((n, Score(score + (n == 2))) for n, score in proposal.scores)
    return replace(evidence, submission=replace(proposal, scores=rows))


def forgive(evidence: EpochEvidence) -> EpochEvidence:
    """Say that a node was not on probation."""
    return replace(evidence, probation={})


def redraw(evidence: EpochEvidence) -> EpochEvidence:
    """Say that another block was audited."""
    return replace(evidence, draw=find_draw(0))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (edit_reveal, "the OUTPUT_REVEAL of node 4 of epoch 9 does not hold: bad_signature"),
        (swap_commit, "the OUTPUT_COMMIT of node 4 of epoch 9 is missing"),
        (steal_identity, "does not hold: wrong_author"),
        (raise_score, "the scores do not follow from the records: node 2: proposed"),
        (forgive, "the scores do not follow from the records"),
        (redraw, "the scores do not follow from the records"),
    ],
)
def test_an_edited_file_is_told_what_does_not_hold(
    whole: EpochEvidence, edit: Callable[[EpochEvidence], EpochEvidence], sentence: str
) -> None:
    with pytest.raises(ReceiptInvalid, match=sentence):
        open_shared(encode_evidence(edit(whole)))


def test_what_nothing_else_covers_the_checksum_does(whole: EpochEvidence) -> None:
    raw = encode_evidence(whole)
    other = encode_evidence(replace(whole, min_attestation=1))
    with pytest.raises(ReceiptDamaged, match="its checksum"):
        open_shared(other[:-32] + raw[-32:])
    assert open_shared(reseal(other[:-32] + raw[-32:]))


def test_a_record_that_the_proposal_names_and_is_not_here_leaves_the_own_view(
    whole: EpochEvidence,
) -> None:
    kept = tuple(r for r in whole.records if r.kind != RecordKind.AUDIT_COMMIT)
    again = recompute(replace(whole, records=kept))
    assert again.basis is Basis.OWN_VIEW
    assert again.missing == ("the AUDIT_COMMIT of node 5 of epoch 9",)


def test_a_sighting_that_is_named_for_another_node_is_a_mismatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    list_named = receipts._list_named

    def swap(world: World, sighted: Mapping[int, Any]) -> NamedList:
        first, second, *others = list_named(world, sighted).rows
        swapped = (
            first._replace(record_hash=second.record_hash),
            second._replace(record_hash=first.record_hash),
        )
        return NamedList((*swapped, *others))

    monkeypatch.setattr(receipts, "_list_named", swap)
    again = recompute(make())
    assert again.basis is not Basis.NAMED
    assert again.mismatches == ("named list: what node 1 is named for is not its own",)


def test_a_store_keeps_files_private_and_whole(whole: EpochEvidence, tmp_path: Path) -> None:
    kept = ReceiptStore(tmp_path)
    kept.write(replace(whole, is_settled=False))
    assert not kept.is_settled(whole.epoch)
    kept.write(whole)
    assert kept.is_settled(whole.epoch) and not kept.is_settled(Epoch(EPOCH + 1))
    (path,) = (tmp_path / store.FOLDER).iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_receipt(tmp_path, whole.epoch) == whole


def test_a_store_forgets_the_oldest_epochs(
    whole: EpochEvidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "KEPT_EPOCHS", 3)
    for epoch in range(12):
        store.write_receipt(tmp_path, Epoch(epoch), b"x" * 10)
    assert list_epochs(tmp_path) == (9, 10, 11)
    monkeypatch.setattr(store, "KEPT_BYTES", 25)
    store.write_receipt(tmp_path, Epoch(12), b"x" * 10)
    assert list_epochs(tmp_path) == (11, 12)


def test_a_death_while_a_receipt_is_written_leaves_the_old_one(
    whole: EpochEvidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    kept = ReceiptStore(tmp_path)
    kept.write(replace(whole, is_settled=False))
    with monkeypatch.context() as patch:
        patch.setattr(private_file.os, "replace", die)
        with pytest.raises(Killed):
            kept.write(whole)
    assert not read_receipt(tmp_path, whole.epoch).is_settled
    assert len(list((tmp_path / store.FOLDER).iterdir())) == 2
    # What it left takes no room for ever, whichever epoch is written next.
    store.write_receipt(tmp_path, Epoch(EPOCH + 1), b"x")
    assert {path.suffix for path in (tmp_path / store.FOLDER).iterdir()} == {".receipt"}


def test_a_reason_that_is_cut_within_a_character_is_read_again(whole: EpochEvidence) -> None:
    long = "x" + "é" * encoding.MAX_TEXT
    again = decode_evidence(encode_evidence(replace(whole, notes=replace(NOTES, refused=long))))
    assert again.notes.refused is not None and long.startswith(again.notes.refused)
    assert len(again.notes.refused.encode()) == encoding.MAX_TEXT - 1


def test_a_store_that_cannot_write_costs_nothing(whole: EpochEvidence, tmp_path: Path) -> None:
    (tmp_path / store.FOLDER).write_text("in the way")
    ReceiptStore(tmp_path).write(whole)
    assert list_epochs(tmp_path) == ()


def test_a_damaged_file_is_named(whole: EpochEvidence, tmp_path: Path) -> None:
    ReceiptStore(tmp_path).write(whole)
    path = tmp_path / store.FOLDER / f"{EPOCH}.receipt"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ReceiptDamaged, match=f"{path} is damaged: its checksum"):
        read_receipt(tmp_path, whole.epoch)
