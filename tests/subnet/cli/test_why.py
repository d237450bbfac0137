"""``mesh why`` as an operator meets it: in words, as JSON, shared, checked, and with bad input."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.records import RecordKind
from consensus.types import Epoch, SubnetNodeId
from subnet.cli.console import run_app
from subnet.cli.mesh import app
from subnet.receipts import store
from subnet.receipts.encoding import encode_evidence
from subnet.receipts.evidence import EpochEvidence
from subnet.receipts.store import ReceiptStore
from tests.support.epoch_records import EPOCH, WRONG, World, find_draw, make_roster
from tests.support.receipts import make_evidence

NOWHERE = "ws://127.0.0.1:1"


def run(*arguments: str) -> tuple[int, str, str]:
    """Run ``mesh why`` in this process; return exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run_app(app, ["why", *arguments], name="mesh")
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def fails(*arguments: str, code: int = 1) -> tuple[str, str]:
    """Run a line that must fail; return the sentence and the fix."""
    got, out, err = run(*arguments)
    assert (got, out) == (code, ""), err
    sentence, fix = err.splitlines()
    return sentence.removeprefix("error: "), fix.removeprefix("hint: ")


@pytest.fixture(scope="module")
def evidence() -> EpochEvidence:
    """Node 1's view of an epoch in which node 4 cheated and node 7 did not audit."""
    world = World(previous=make_roster(epoch=EPOCH - 1), draw=find_draw(1))
    world.host(1, 2, 3, 4, age=1)
    world.host(1, 2, 3)
    world.host(4, vectors=WRONG)
    world.audit(5, 6)
    world.score_before(5, 6, 7)
    return make_evidence(world)


@pytest.fixture
def home(evidence: EpochEvidence, tmp_path: Path) -> Path:
    """A data folder in which node 1 of subnet 7 keeps the epoch."""
    folder = tmp_path / "data" / "7-1"
    folder.mkdir(parents=True)
    ReceiptStore(folder).write(evidence)
    return folder.parent


def ask(home: Path, *arguments: str) -> str:
    code, out, err = run(*arguments, "--data-dir", str(home))
    assert code == 0, err
    return out


def test_an_honest_score_is_told_with_every_number(home: Path) -> None:
    out = ask(home)
    assert out.startswith(f"node 1, epoch {EPOCH}: score 0.133333; equals the chain\n")
    assert "Why it is 0" not in out and "What it could not earn" not in out
    assert "7 sightings accept" in out
    assert "  commit        9      183         191        7 of 7     accepted\n" in out
    assert "Hosted blocks 0:2\n" in out
    assert "attested by 7 of 7 validators, 66 % are needed: agreed\n" in out
    assert "give --chain URL" in out


def test_a_cheat_is_told_why_and_what_to_do(home: Path) -> None:
    out = ask(home, str(EPOCH), "4")
    assert out.startswith(f"node 4, epoch {EPOCH}: no row; equals the chain\n")
    assert "counts the node as absent\n  - refuted: on the audited block 1" in out
    assert out.count("fix: ") == 1
    assert "    fix: serve exactly the subnet's model" in out
    assert "Probation: 0 epochs before this one was scored, 8 after it\n" in out


def test_a_score_that_could_be_higher_says_so(home: Path) -> None:
    out = ask(home, str(EPOCH), "7")
    assert "What it could not earn\n  - node 7 audited nothing in this epoch\n" in out


def test_who_did_not_list_a_record_is_named(tmp_path: Path) -> None:
    world = World(draw=find_draw(1))
    world.host(1, 2, 3, 4)
    slot = (RecordKind.OUTPUT_REVEAL, Epoch(EPOCH), SubnetNodeId(1))
    named = {n: world.sight(n, hidden=[slot] if n in (5, 7) else []) for n in range(1, 8)}
    late = {(RecordKind.OUTPUT_REVEAL, 1): 15}
    (tmp_path / "7-1").mkdir()
    ReceiptStore(tmp_path / "7-1").write(make_evidence(world, named=named, seen=late))
    out = ask(tmp_path)
    assert (
        "198         198        5 of 7     accepted, late\n    not listed by node 5, node 7\n"
        in out
    )


@pytest.mark.parametrize("node", range(1, 8))
def test_text_fits_80_columns(home: Path, node: int) -> None:
    assert max(map(len, ask(home, "last", str(node)).splitlines())) <= 80


@pytest.mark.parametrize("node", range(1, 8))
def test_json_is_one_object_with_the_same_facts(home: Path, node: int) -> None:
    said = json.loads(ask(home, str(EPOCH), str(node), "--json"))
    assert (said["epoch"], said["subnet_node_id"], said["kept_by"]) == (EPOCH, node, 1)
    assert said["verdict"] == "equal" and said["score"] == said["proposed"]
    assert [reason["code"] for reason in said["reasons"]] == {
        4: ["refuted", "outside_tolerance"],
        7: ["no_audit"],
    }.get(node, [])
    assert (said["hoster"] is None) is (node > 4)
    assert (said["validator"] is None) is (node < 5)


def test_a_shared_file_is_checked_elsewhere(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "node4.receipt"
    code, out, err = run(str(EPOCH), "4", "--share", str(file), "--data-dir", str(home))
    assert code == 0 and f"check it with `mesh why --check {file}`" in err
    code, checked, err = run("--check", str(file))
    assert (code, checked) == (0, out)
    assert "signatures hold, and the scores follow from them" in err
    assert "not checked without --chain" in err
    code, other, _ = run(str(EPOCH), "2", "--check", str(file), "--json")
    assert code == 0 and json.loads(other)["subnet_node_id"] == 2


def test_a_file_is_never_replaced(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "there"
    file.write_text("mine")
    line = ("--share", str(file), "--data-dir", str(home))
    assert "exists already" in fails(*line, code=2)[0]
    assert file.read_text() == "mine"


def test_sharing_touches_no_other_file(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "receipt.new"
    other.write_text("mine")
    file = tmp_path / "receipt"
    code, _, _ = run("--share", str(file), "--data-dir", str(home))
    assert code == 0 and file.stat().st_mode & 0o777 == 0o600
    assert other.read_text() == "mine"


def test_an_edited_file_is_told_what_does_not_hold(evidence: EpochEvidence, tmp_path: Path) -> None:
    file = tmp_path / "edited"
    records = [
        replace(record, body=record.body[:-4] + bytes(4))
        if (record.kind, record.node_id) == (RecordKind.OUTPUT_REVEAL, 4)
        else record
        for record in evidence.records
    ]
    file.write_bytes(encode_evidence(replace(evidence, records=tuple(records))))
    sentence, _ = fails("--check", str(file))
    assert "OUTPUT_REVEAL of node 4" in sentence and "bad_signature" in sentence


@pytest.mark.parametrize("raw", [b"", b"MESHWHY1", b"{}" * 400])
def test_a_file_that_is_no_receipt_is_refused(raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_bytes(raw)
    _, fix = fails("--check", str(file))
    assert "mesh why EPOCH NODE --share FILE" in fix


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "nothing cannot be read" in fails("--check", str(tmp_path / "nothing"))[0]


def test_a_file_without_a_record_that_the_proposal_names_is_not_shared(
    evidence: EpochEvidence, tmp_path: Path
) -> None:
    folder = tmp_path / "7-1"
    folder.mkdir()
    kept = tuple(r for r in evidence.records if r.kind != RecordKind.AUDIT_REVEAL)
    ReceiptStore(folder).write(replace(evidence, records=kept))
    sentence, fix = fails("--share", str(tmp_path / "x"), "--data-dir", str(tmp_path))
    assert sentence.startswith("the AUDIT_REVEAL of node 5 of epoch 9 is missing")
    assert "ask a node that has it" in fix
    out = ask(tmp_path)
    assert "not compared: this node has not all that the proposal names" in out
    assert "Not seen by node 1\n" in out


def test_an_epoch_that_is_not_kept_is_told_from_when_to_when(home: Path) -> None:
    for epoch in ("3", "99"):
        sentence, _ = fails(epoch, "--data-dir", str(home))
        assert sentence == (f"node 1 keeps no receipt of epoch {epoch}: it has 1, of epochs 9 to 9")


def test_a_node_that_the_subnet_had_not_is_told_which_it_had(home: Path) -> None:
    sentence, fix = fails("last", "99", "--data-dir", str(home))
    assert sentence == "the subnet had no node 99 in epoch 9"
    assert fix == "name one of its nodes: 1, 2, 3, 4, 5, 6, 7"


def test_a_word_is_no_epoch(home: Path) -> None:
    assert "'soon' is not an epoch" in fails("soon", "--data-dir", str(home), code=2)[0]


def test_an_empty_home_says_how_to_begin(tmp_path: Path) -> None:
    assert "no node has run" in fails("--data-dir", str(tmp_path))[0]
    (tmp_path / "7-1").mkdir()
    assert "node 1 has kept no receipt yet" in fails("--data-dir", str(tmp_path))[0]


def test_several_nodes_are_told_apart_by_number(home: Path, evidence: EpochEvidence) -> None:
    second = home / "7-2"
    second.mkdir()
    about = SubnetNodeId(2)
    ReceiptStore(second).write(replace(evidence, kept_by=about, about=about))
    assert "several nodes keep data here: 1, 2" in fails("--data-dir", str(home), code=2)[0]
    assert "kept by node 2" in " ".join(ask(home, "last", "2").split())
    assert "kept by node 1" in " ".join(ask(home, "last", "3").split())
    (home / "8-3").mkdir()
    assert "several subnets" in fails("last", "3", "--data-dir", str(home), code=2)[0]
    assert ask(home, "last", "3", "--subnet", "7").startswith("node 3, epoch 9")


def test_the_last_settled_epoch_is_told_before_one_that_is_not(
    home: Path, evidence: EpochEvidence
) -> None:
    rosters = {
        name: replace(roster, epoch=Epoch(roster.epoch + 1))
        for name in ("previous", "roster", "following")
        if (roster := getattr(evidence, name))
    }
    later = replace(evidence, **rosters, is_settled=False, records=())
    ReceiptStore(home / "7-1").write(later)
    assert ask(home).startswith(f"node 1, epoch {EPOCH}:")


def test_a_damaged_file_is_named_with_a_fix(home: Path) -> None:
    path = home / "7-1" / store.FOLDER / f"{EPOCH}.receipt"
    path.write_bytes(path.read_bytes()[:-40])
    sentence, fix = fails("--data-dir", str(home))
    assert sentence.startswith(f"{path} is damaged") and "remove it" in fix


def test_a_chain_that_does_not_answer_leaves_what_was_kept(home: Path, tmp_path: Path) -> None:
    code, out, err = run("--chain", NOWHERE, "--data-dir", str(home))
    assert code == 0 and "equals the chain" in out
    assert "the chain does not answer" in err
    file = tmp_path / "file"
    assert run("--share", str(file), "--data-dir", str(home))[0] == 0
    assert "--chain" in fails("--check", str(file), "--chain", NOWHERE)[1]
