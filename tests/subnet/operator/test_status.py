"""The status file says whether the process lives and its head moves, and never ends the process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import structlog

from consensus.phases import Phase
from consensus.types import BlockNumber, compute_epoch_position
from subnet.errors import ConfigError
from subnet.operator import status
from subnet.operator.status import NodeStatus, StatusFile, read_statuses

FACTS: dict[str, Any] = {
    "peer_id": "12D3KooWLaunchPeer",
    "subnet_id": 128001,
    "subnet_node_id": 3,
    "role": "hoster",
    "blocks": (0, 8),
    "block_time_s": 6.0,
    "taking_part": "active",
    "addresses": (),
}


class Scene:
    """A status file below ``place`` and a clock that tests set."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.now_s = 1000.0
        self.file = StatusFile(place / "128001-3", lambda: FACTS, clock=lambda: self.now_s)

    def see(self, block: int, *, now_s: float) -> None:
        self.now_s = now_s
        position = compute_epoch_position(BlockNumber(block), slot=0, epoch_length=20)
        self.file.note_head(position, Phase.COMMIT)

    def read(self) -> NodeStatus:
        (found,) = read_statuses(self.place)
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_silent_process_is_named_with_the_seconds(scene: Scene) -> None:
    scene.see(41, now_s=1000)
    scene.read().check(now_s=1100, max_age_s=100)
    with pytest.raises(ConfigError, match="node 3 of subnet 128001 has been silent for 101 s"):
        scene.read().check(now_s=1101, max_age_s=100)


def test_a_head_that_stands_still_is_unhealthy_while_the_process_writes(scene: Scene) -> None:
    scene.see(41, now_s=1000)
    # The loop looks at one head several times, and the file is written between heads as well.
    scene.see(41, now_s=1100)
    scene.now_s = 1121
    scene.file.write()
    found = scene.read()
    assert (found.written_at, found.head_moved_at) == (1121, 1000)
    found.check(now_s=1120, max_age_s=100)
    with pytest.raises(ConfigError, match="has stood at block 41 for 121 s") as failure:
        found.check(now_s=1121, max_age_s=100)
    assert "--chain" in failure.value.hint
    scene.see(42, now_s=1122)
    scene.read().check(now_s=1123, max_age_s=100)


def test_before_its_first_head_a_process_is_healthy_while_it_writes(scene: Scene) -> None:
    scene.file.write()
    found = scene.read()
    assert found.head is None
    found.check(now_s=1050, max_age_s=100)
    with pytest.raises(ConfigError, match="silent"):
        found.check(now_s=1101, max_age_s=100)


def test_a_disk_that_refuses_the_status_is_one_warning_and_the_next_write_comes_through(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_directory: Path, _status: NodeStatus) -> None:
        raise OSError(28, "No space left on device")

    write = status.write_status
    monkeypatch.setattr(status, "write_status", refuse)
    with structlog.testing.capture_logs() as logs:
        scene.file.write()
        scene.see(41, now_s=1001)
    assert [(entry["log_level"], entry["reason"]) for entry in logs] == [
        ("warning", "No space left on device")
    ]
    monkeypatch.setattr(status, "write_status", write)
    scene.see(42, now_s=1002)
    assert scene.read().head == 42


def test_a_folder_that_is_gone_is_made_again(scene: Scene) -> None:
    scene.file.write()
    shutil.rmtree(scene.place / "128001-3")
    scene.file.write()
    assert scene.read().subnet_node_id == 3


def test_a_process_that_ends_in_order_says_that_it_was_stopped(scene: Scene) -> None:
    with pytest.raises(ValueError, match="broke"), scene.file.say_when_stopped():
        scene.see(41, now_s=1000)
        assert not scene.read().is_stopped
        raise ValueError("it broke")
    found = scene.read()
    assert found.is_stopped and found.head == 41
    with pytest.raises(ConfigError, match="was stopped 5 s ago"):
        found.check(now_s=1005, max_age_s=100)
    scene.see(42, now_s=1010)
    assert not scene.read().is_stopped


def rewrite(scene: Scene, change: Any) -> None:
    path = scene.place / "128001-3" / "status.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_an_older_status_is_migrated(scene: Scene) -> None:
    scene.see(41, now_s=1000)
    added = {"version", "head_moved_at", "block_time_s"}
    rewrite(scene, lambda body: {name: body[name] for name in body.keys() - added})
    found = scene.read()
    assert (found.head, found.head_moved_at, found.block_time_s) == (41, 1000, 6.0)


@pytest.mark.parametrize("version", [0, 4, "3"])
def test_a_status_of_an_unknown_version_is_refused_with_a_fix(
    scene: Scene, version: object
) -> None:
    scene.file.write()
    rewrite(scene, lambda body: body | {"version": version})
    with pytest.raises(ConfigError, match="is of version") as refusal:
        scene.read()
    assert "the program that wrote it" in refusal.value.hint


def test_an_amount_that_is_no_number_is_refused(scene: Scene) -> None:
    scene.file.write()
    for amount in ("abc", "-1", "1" * 41, 5):
        rewrite(scene, lambda body, amount=amount: body | {"stake": amount})
        with pytest.raises(ConfigError, match="is not a status file"):
            scene.read()


def test_the_newest_missed_duty_is_shown_with_the_number_of_all(tmp_path: Path) -> None:
    lines = ("epoch 5: elected, did not propose: Payment", "epoch 4: did not attest: no hotkey")
    StatusFile(tmp_path / "128001-3", lambda: FACTS | {"missed": lines}).write()
    (found,) = read_statuses(tmp_path)
    assert found.missed == lines
    assert found.describe(now_s=found.written_at).endswith(f"2 missed: {lines[0]}")


def test_checks_that_fail_are_counted_with_the_command_that_tells_more(tmp_path: Path) -> None:
    file = StatusFile(tmp_path / "128001-3", lambda: FACTS | {"failing": ("disk: full", "stake")})
    file.write()
    (found,) = read_statuses(tmp_path)
    assert found.describe(now_s=found.written_at).endswith("2 checks fail: mesh doctor")
