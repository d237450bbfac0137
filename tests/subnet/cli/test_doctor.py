"""``mesh doctor`` as an operator meets it: on an empty home, beside a running node, as JSON."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.types import Role, SubnetId, SubnetNodeId
from keys.identity_file import create_identity_file
from mesh.p2p import daemon
from subnet.cli.console import run_app
from subnet.cli.doctor import WIDTH
from subnet.cli.mesh import app
from subnet.doctor import examine as examination
from subnet.doctor.checks import CHECKS, NODE_CHECKS
from subnet.doctor.finding import CheckStatus, Finding, encode_finding, passed
from subnet.doctor.service import CHECK, DESCRIBE
from subnet.doctor.subject import NodeFacts, parse_facts
from subnet.operator.control import CONTROL_SOCKET, ControlServer, Method, find_running
from subnet.operator.status import NodeStatus, write_status

NOWHERE = "ws://127.0.0.1:1"
WAIT_S = 60.0


def run(*arguments: str) -> tuple[int, str, str]:
    """Run ``mesh doctor`` in this process; return exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run_app(app, ["doctor", *arguments], name="mesh")
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def examine(home: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code and the checks by name."""
    code, out, _ = run("--data-dir", str(home), "--chain", NOWHERE, "--json", *arguments)
    rows = json.loads(out)["checks"]
    assert [row["check"] for row in rows] == [check.name for check in CHECKS]
    return code, {row["check"]: row for row in rows}


@pytest.fixture
def quick_p2pd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the second in which p2pd starts."""

    async def start(*, timeout_s: float) -> None:
        return

    monkeypatch.setattr(daemon, "try_daemon", start)


@contextmanager
def node_running(
    folder: Path, facts: NodeFacts, answer: Finding, tell: Method | None = None
) -> Iterator[list[str]]:
    """Run the control socket of a node whose checks all find ``answer``; yield what was asked."""
    asked: list[str] = []
    folder.mkdir(parents=True, mode=0o700)

    async def describe(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return facts.to_json()

    async def check(request: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(str(request["check"]))
        return encode_finding(answer)

    server = ControlServer(folder, {DESCRIBE: tell or describe, CHECK: check})
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run())
            while not find_running(folder.parent):
                await asyncio.wait((running,), timeout=0)
            up.set()
            await stop.wait()
            running.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert up.wait(WAIT_S)
        yield asked
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
        loop.close()


def make_facts(home: Path, *, node: int = 1) -> NodeFacts:
    return NodeFacts(
        data_dir=home,
        folder=home / f"7-{node}",
        identity_path=home / "peer_id.key",
        chain_urls=(NOWHERE,),
        subnet_id=SubnetId(7),
        node_id=SubnetNodeId(node),
        role=Role.HOSTER,
    )


def test_an_empty_home_has_all_checks_and_fails(tmp_path: Path) -> None:
    code, out, err = run("--data-dir", str(tmp_path), "--chain", NOWHERE)
    assert code == 1
    lines = out.splitlines()
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == [
        check.name.split()[0] for check in CHECKS
    ]
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= WIDTH
    assert "mesh keygen" in out and f"{len(CHECKS)} checks: 2 FAIL" in err
    assert len(CHECKS) >= 16 and len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.usefixtures("quick_p2pd")
def test_everything_that_is_not_passed_has_a_fix_or_says_why(tmp_path: Path) -> None:
    _, rows = examine(tmp_path)
    for row in rows.values():
        assert row["detail"]
        assert bool(row["fix"]) or row["verdict"] in ("PASS", "SKIP")
        assert row["seconds"] >= 0


def test_the_status_of_another_node_says_nothing_of_the_identity_that_is_named(
    tmp_path: Path,
) -> None:
    ran_last = create_identity_file(tmp_path / "old.key")
    named = create_identity_file(tmp_path / "new.key")
    (tmp_path / "7-1").mkdir()
    status = NodeStatus(
        peer_id=str(ran_last),
        subnet_id=7,
        subnet_node_id=1,
        role="hoster",
        blocks=None,
        written_at=0.0,
        head=None,
        head_moved_at=None,
        block_time_s=6.0,
        epoch=None,
        phase=None,
        taking_part="active",
        addresses=(),
    )
    write_status(tmp_path / "7-1", status)
    request = examination.Request(data_dir=tmp_path, identity_path=tmp_path / "new.key")
    assert examination.guess_facts(request).peer_id == named
    assert examination.guess_facts(request).node_id is None
    same = examination.Request(data_dir=tmp_path, identity_path=tmp_path / "old.key")
    assert examination.guess_facts(same).node_id == 1
    assert examination.guess_facts(examination.Request(data_dir=tmp_path)).peer_id == ran_last


@pytest.mark.usefixtures("quick_p2pd")
def test_a_running_node_is_asked_for_what_only_it_can_check(tmp_path: Path) -> None:
    facts = make_facts(tmp_path)
    create_identity_file(facts.identity_path)
    with node_running(tmp_path / "7-1", facts, passed("well")) as asked:
        _, rows = examine(tmp_path)
        assert asked == list(NODE_CHECKS)
        assert {rows[name]["verdict"] for name in NODE_CHECKS} == {"PASS"}
        assert rows["identity"]["verdict"] == "PASS"
        bad = "there is no such subnet"
    with node_running(tmp_path / "7-2", facts, Finding(CheckStatus.FAIL, bad, "look")):
        code, rows = examine(tmp_path)
        assert code == 1 and rows["canary"]["detail"] == bad


@pytest.mark.usefixtures("quick_p2pd")
def test_a_node_that_hangs_fails_its_checks_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "DESCRIBE_TIMEOUT_S", 0.2)
    folder = tmp_path / "7-1"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / CONTROL_SOCKET))
        deaf.listen()
        code, rows = examine(tmp_path)
    assert code == 1
    assert {rows[name]["detail"] for name in NODE_CHECKS} == {"the node runs and does not answer"}
    assert rows["disk"]["verdict"] == "PASS"


@pytest.mark.usefixtures("quick_p2pd")
def test_a_node_of_another_version_skips_its_checks(tmp_path: Path) -> None:
    async def describe_less(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"peer_id": None}

    with node_running(tmp_path / "7-1", make_facts(tmp_path), passed(""), describe_less):
        _, rows = examine(tmp_path)
    assert {rows[name]["verdict"] for name in NODE_CHECKS} == {"SKIP"}
    assert "another version" in rows["canary"]["detail"]


@pytest.mark.usefixtures("quick_p2pd")
def test_several_running_nodes_need_a_choice(tmp_path: Path) -> None:
    with (
        node_running(tmp_path / "7-1", make_facts(tmp_path), passed("one")),
        node_running(tmp_path / "7-2", make_facts(tmp_path, node=2), passed("two")),
    ):
        code, out, err = run("--data-dir", str(tmp_path), "--chain", NOWHERE)
        assert (code, out) == (2, "")
        assert "7-1, 7-2" in err and "--subnet and --node" in err
        _, rows = examine(tmp_path, "--subnet", "7", "--node", "2")
        assert rows["canary"]["detail"] == "two"


def test_subnet_0_is_named_too(tmp_path: Path) -> None:
    with node_running(tmp_path / "7-1", make_facts(tmp_path), passed("well")):
        seven, zero = (examination.Request(data_dir=tmp_path, subnet_id=n) for n in (7, 0))
        assert examination.choose_running(seven) == tmp_path / "7-1"
        assert examination.choose_running(zero) is None


def test_facts_travel_over_the_socket_as_they_are(tmp_path: Path) -> None:
    facts = replace(
        make_facts(tmp_path),
        hotkey_path=tmp_path / "hotkey.json",
        hotkey="0x" + "ab" * 20,
        peer_id=create_identity_file(tmp_path / "peer_id.key"),
        model="mesh-tiny",
        is_unpaid=True,
        host_maddrs=("/ip4/0.0.0.0/tcp/31330",),
        addresses=("/ip4/127.0.0.1/tcp/31330",),
    )
    assert parse_facts(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize(
    "line", ((), ("mesh-tiny",), ("--subnet", "7"), ("mesh-tiny", "--subnet", "7", "--chain", "x"))
)
def test_a_dry_node_says_what_it_needs(line: tuple[str, ...]) -> None:
    code, out, err = run("--dry-node", *line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and "\nhint: " in err


def test_a_dry_node_without_the_chain_ends_at_once() -> None:
    code, out, err = run("mesh-tiny", "--dry-node", "--subnet", "7", "--chain", NOWHERE)
    assert (code, out) == (1, "")
    assert "does not answer" in err and "--chain" in err
