"""A restart waits for the epoch's duties, and for nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from subnet.errors import ConfigError
from subnet.operator.restart_window import find_reason_to_stay, wait_for_window
from subnet.operator.status import SILENT_AFTER_S, NodeStatus, write_status

STAY = "reveal of epoch 9 is due, 3 blocks at most"


def keep(place: Path, node_id: int = 3, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "peer_id": "12D3KooWLaunchPeer",
        "subnet_id": 128001,
        "subnet_node_id": node_id,
        "role": "hoster",
        "blocks": (0, 8),
        "written_at": 1000.0,
        "head": 41,
        "head_moved_at": 1000.0,
        "block_time_s": 6.0,
        "epoch": 2,
        "phase": "commit",
        "taking_part": "active",
        "addresses": (),
    }
    write_status(place / f"128001-{node_id}", NodeStatus(**fields | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stay": STAY}, f"node 3 of subnet 128001: {STAY}"),
        ({"stay": None}, None),
        ({"stay": STAY, "is_stopped": True}, None),
        ({"stay": STAY, "written_at": 999.0 - SILENT_AFTER_S}, None),
        ({"stay": STAY, "taking_part": "unpaid"}, None),
        (
            {"head": None},
            "node 3 of subnet 128001 has just started, and does not know its duties yet",
        ),
    ],
    ids=["owes", "owes nothing", "stopped", "dead", "unpaid", "starting"],
)
def test_only_a_running_node_with_an_open_duty_has_to_stay(
    changes: dict[str, Any], why: str | None, tmp_path: Path
) -> None:
    keep(tmp_path, **changes)
    assert find_reason_to_stay(tmp_path, None, now_s=1000.0) == why
    assert find_reason_to_stay(tmp_path, 3, now_s=1000.0) == why


def test_all_nodes_of_the_machine_count_unless_one_is_named(tmp_path: Path) -> None:
    keep(tmp_path, 3, stay=None)
    keep(tmp_path, 4, stay=STAY)
    assert find_reason_to_stay(tmp_path, None, now_s=1000.0) is not None
    assert find_reason_to_stay(tmp_path, 3, now_s=1000.0) is None
    with pytest.raises(ConfigError, match="no node 5 has run"):
        find_reason_to_stay(tmp_path, 5, now_s=1000.0)


async def test_it_returns_when_the_duty_is_done_and_says_each_reason_once(tmp_path: Path) -> None:
    keep(tmp_path, stay=STAY)
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        keep(tmp_path, stay=None)

    async with asyncio.timeout(30):
        await wait_for_window(tmp_path, None, say=note, clock=lambda: 1000.0)
    assert said == [f"node 3 of subnet 128001: {STAY}"]
