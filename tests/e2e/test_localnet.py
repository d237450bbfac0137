"""``mesh localnet`` as a person and a script run it: what it prints, and that it leaves nothing."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from consensus.types import SCORE_ONE
from mesh.assets import default_question
from subnet.cli.console import run_app
from subnet.cli.mesh import app
from subnet.localnet.environment import find_free_port
from subnet.monitor.history import FILE, open_history
from subnet.monitor.swarm import to_millionths
from tests.support.commands import MESH, STOP_S, Command, run_command, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

NAMES = ("hoster-1", "hoster-2", "hoster-3", "hoster-4", "validator-1", "validator-2")
NODES = len(NAMES)
EPOCHS = 2
RUN_S = 360.0
UP = "nodes are up"
SMALL = ("--hosters", "2", "--validators", "1")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the run of the demo leaves, because it is asked to."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def whole_run(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The run of the demo, finished."""
    line = [*MESH, "localnet", "--hosters", "4", "--validators", "2", "--keep", str(kept)]
    port = find_free_port()
    with run_command(
        [*line, "--epochs", str(EPOCHS), "--json", "--monitor", str(port)],
        tmp_path_factory.mktemp("localnet"),
    ) as command:
        command.wait_for(UP)
        page = httpx.get(f"http://127.0.0.1:{port}/", timeout=30)
        assert page.status_code == 200 and "mesh monitor" in page.text
        assert len(command.list_family()) > NODES
        code = command.wait(timeout_s=RUN_S)
        assert code == 0, command.stderr[-8000:]
        yield command


def read_rows(command: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.stdout.splitlines()]


def ask_why(data_dir: Path, epoch: int, node_id: int) -> dict[str, Any]:
    """Return what ``mesh why`` says on the node that keeps its data there."""
    out = io.StringIO()
    line = ["why", str(epoch), str(node_id), "--json", "--data-dir", str(data_dir)]
    with redirect_stdout(out), pytest.raises(SystemExit) as ended:
        run_app(app, line, name="mesh")
    assert ended.value.code == 0
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


def read_monitored(data_dir: Path) -> dict[int, dict[int, int]]:
    """Return the scores in millionths that a node's monitor keeps, by epoch and node id."""
    (path,) = data_dir.glob(f"*/{FILE}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((network_id,),) = connection.execute("SELECT network FROM about").fetchall()
    with open_history(path, network_id=network_id) as history:
        return {
            record.epoch: {n.node_id: n.score for n in record.nodes if n.score is not None}
            for record in history.read_last(64)
        }


def is_score(value: object) -> bool:
    return isinstance(value, str) and value.isdecimal() and 0 <= int(value) <= SCORE_ONE


def test_it_prints_one_object_per_epoch_and_nothing_else(whole_run: Command) -> None:
    rows = read_rows(whole_run)
    assert len(rows) == EPOCHS
    assert [row["epoch"] - rows[0]["epoch"] for row in rows] == list(range(EPOCHS))


def test_the_monitor_keeps_the_scores_that_the_nodes_agreed_on(
    whole_run: Command, kept: Path
) -> None:
    monitored = read_monitored(kept / NAMES[-1])
    for row in read_rows(whole_run):
        scores = {node_id: to_millionths(int(score)) for node_id, score in row["proposal"]}
        assert monitored[row["epoch"]] == scores


def test_every_row_has_the_promised_form(whole_run: Command) -> None:
    for row in read_rows(whole_run):
        assert list(row) == [
            "epoch",
            "elected",
            "challenge_seed",
            "hosters",
            "validators",
            "proposal",
            "attestation_ratio",
        ]
        assert type(row["epoch"]) is int
        assert len(bytes.fromhex(row["challenge_seed"])) == 32
        assert [hoster["subnet_node_id"] for hoster in row["hosters"]] == [1, 2, 3, 4]
        assert [node["subnet_node_id"] for node in row["validators"]] == [5, 6]
        for hoster in row["hosters"]:
            assert list(hoster) == [
                "subnet_node_id",
                "blocks",
                "committed",
                "revealed",
                "distance",
                "failed_probes",
                "penalty",
                "score",
                "attested",
            ]
            start, end = hoster["blocks"]
            assert 0 <= start < end <= 8
            assert isinstance(hoster["distance"], float)
            failed, named = hoster["failed_probes"]
            assert failed == 0 and named >= 4
            assert is_score(hoster["score"])
        for node in row["validators"]:
            assert list(node) == ["subnet_node_id", "accuracy", "audited", "score", "attested"]
            assert is_score(node["score"])


def test_every_block_has_three_hosters_of_which_two_serve_parts(whole_run: Command) -> None:
    spans = [hoster["blocks"] for hoster in read_rows(whole_run)[0]["hosters"]]
    assert spans[:2] == [[0, 8], [0, 8]]
    assert spans[2] != spans[3] and [0, 8] not in spans[2:]
    for block in range(8):
        assert sum(start <= block < end for start, end in spans) >= 3


def test_honest_work_is_scored_proposed_and_attested_by_all(whole_run: Command) -> None:
    for row in read_rows(whole_run):
        nodes = row["hosters"] + row["validators"]
        assert all(node["attested"] is True for node in nodes)
        assert row["attestation_ratio"] == 1.0
        assert row["elected"] in {node["subnet_node_id"] for node in nodes}
        assert row["proposal"] == [[node["subnet_node_id"], node["score"]] for node in nodes]
        for hoster in row["hosters"]:
            assert hoster["committed"] is True and hoster["revealed"] is True
            assert 0 <= hoster["distance"] < 2**-12
            assert int(hoster["score"]) > 0


def test_validators_are_paid_for_audits_and_from_the_second_epoch_on_for_scores(
    whole_run: Command,
) -> None:
    first, second = read_rows(whole_run)
    for row in (first, second):
        assert all(node["audited"] and int(node["score"]) > 0 for node in row["validators"])
    assert not any(node["accuracy"] for node in first["validators"])
    assert [node["accuracy"] for node in second["validators"]] == [str(SCORE_ONE)] * 2


def test_mesh_why_on_every_node_equals_the_chain_for_every_node(
    whole_run: Command, kept: Path
) -> None:
    first = read_rows(whole_run)[0]
    for keeper in NAMES:
        for node_id, score in first["proposal"]:
            receipt = ask_why(kept / keeper, first["epoch"], node_id)
            assert receipt["verdict"] == "equal"
            assert receipt["score"] == receipt["proposed"] == score
            # Validators are paid for scores from the second epoch on.
            assert {reason["code"] for reason in receipt["reasons"]} <= {"no_scores_expected"}


def test_every_epoch_has_its_own_challenge(whole_run: Command) -> None:
    first, second = read_rows(whole_run)
    assert first["challenge_seed"] != second["challenge_seed"]


def test_the_answer_is_exact_and_came_over_two_hosters(whole_run: Command) -> None:
    question = default_question()
    assert f"question: {question.question}\n" in whole_run.stderr
    assert f"{question.answer}\n" in whole_run.stderr
    (route,) = re.findall(r"answered over blocks (.+)", whole_run.stderr)
    hops = [tuple(map(int, hop.split(":"))) for hop in route.split(" → ")]
    assert len(hops) >= 2 and hops[0][0] == 0 and hops[-1][1] == 8
    assert all(end == start for (_, end), (start, _) in pairwise(hops))


def test_it_leaves_nothing_running_and_no_file(whole_run: Command) -> None:
    assert whole_run.list_family() == []
    assert list(whole_run.temporary.iterdir()) == []


def test_sigterm_while_torch_is_still_imported_stops_everything(tmp_path: Path) -> None:
    with run_command([*MESH, "localnet", *SMALL, "--json"], tmp_path) as command:
        command.wait_for("development chain on")
        command.send(signal.SIGTERM)
        # A module that a thread is in the middle of importing is imported to its end.
        assert command.wait(timeout_s=2 * STOP_S) == 128 + signal.SIGTERM
        command.wait_until_gone()
        assert list(command.temporary.iterdir()) == []
        assert command.stdout == "" and "Traceback" not in command.stderr


def test_ctrl_c_in_the_middle_stops_everything(tmp_path: Path) -> None:
    with run_command([*MESH, "localnet", *SMALL, "--json"], tmp_path) as command:
        command.wait_for("question:")
        command.press_ctrl_c()
        assert command.wait() == 128 + signal.SIGINT
        command.wait_until_gone()
        assert list(command.temporary.iterdir()) == []
        assert command.stdout == "" and "Traceback" not in command.stderr


def test_nothing_survives_a_parent_that_is_killed(tmp_path: Path) -> None:
    with run_command([*MESH, "localnet", *SMALL], tmp_path) as command:
        command.wait_for(UP)
        assert len(command.list_family()) > 4
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        command.wait_until_gone()


def test_a_node_that_dies_fails_the_run_and_its_log_is_shown(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    line = [*MESH, "localnet", *SMALL, "--keep", str(kept)]
    with run_command(line, tmp_path) as command:
        command.wait_for(UP)
        find_writer(command, kept / "logs" / "validator-1.log").kill()
        assert command.wait() == 1
        assert "error: validator-1 was ended by SIGKILL; the end of its log:" in command.stderr
        assert '"event": "serving"' in command.stderr
        assert "hint: run it again with --keep DIR" in command.stderr
        assert "Traceback" not in command.stderr
        command.wait_until_gone()
        assert (kept / "logs" / "hoster-1.log").is_file()


def find_writer(command: Command, log: Path) -> psutil.Process:
    """Return the process whose standard error is this file."""
    found: list[psutil.Process] = []

    def look() -> bool:
        for process in command.list_family():
            target = Path(f"/proc/{process.pid}/fd/2")
            if target.exists() and target.resolve() == log.resolve():
                found.append(process)
        return bool(found)

    wait_until(look, f"writer of {log}")
    return found[0]
